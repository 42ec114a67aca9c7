"""The root: every group by its name in the file."""

import dataclasses

from extproc.config.admin import AdminSettings
from extproc.config.admission import AdmissionSettings
from extproc.config.dataplane import EnvoySettings
from extproc.config.discovery import DiscoverySettings
from extproc.config.fleet import FleetSettings, WorkerSpec
from extproc.config.hooks import HookSettings
from extproc.config.kv_events import KvEventsSettings
from extproc.config.models import ModelSpec
from extproc.config.plugins import PluginSpec
from extproc.config.policies import (
    BucketSettings,
    CacheAwareSettings,
    ConsistentHashingSettings,
    ExpectedLatencySettings,
    ManualSettings,
    PolicyParameters,
    PowerOfTwoSettings,
    PrefixHashSettings,
    RoutingSettings,
)
from extproc.config.recording import RecordingSettings
from extproc.config.server import ServerSettings
from extproc.config.supervisor import SupervisorSettings
from extproc.config.telemetry import TelemetrySettings
from extproc.config.tokens import TokensSettings


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """A whole configuration, checked. Groups carry the names they have in the file."""

    server: ServerSettings = dataclasses.field(default_factory=ServerSettings)
    supervisor: SupervisorSettings = dataclasses.field(default_factory=SupervisorSettings)
    admin: AdminSettings = dataclasses.field(default_factory=AdminSettings)
    fleet: FleetSettings = dataclasses.field(default_factory=FleetSettings)
    discovery: DiscoverySettings = dataclasses.field(default_factory=DiscoverySettings)
    routing: RoutingSettings = dataclasses.field(default_factory=RoutingSettings)
    admission: AdmissionSettings = dataclasses.field(default_factory=AdmissionSettings)
    hooks: HookSettings = dataclasses.field(default_factory=HookSettings)
    power_of_two: PowerOfTwoSettings = dataclasses.field(default_factory=PowerOfTwoSettings)
    cache_aware: CacheAwareSettings = dataclasses.field(default_factory=CacheAwareSettings)
    bucket: BucketSettings = dataclasses.field(default_factory=BucketSettings)
    manual: ManualSettings = dataclasses.field(default_factory=ManualSettings)
    consistent_hashing: ConsistentHashingSettings = dataclasses.field(default_factory=ConsistentHashingSettings)
    prefix_hash: PrefixHashSettings = dataclasses.field(default_factory=PrefixHashSettings)
    expected_latency: ExpectedLatencySettings = dataclasses.field(default_factory=ExpectedLatencySettings)
    tokens: TokensSettings = dataclasses.field(default_factory=TokensSettings)
    kv_events: KvEventsSettings = dataclasses.field(default_factory=KvEventsSettings)
    envoy: EnvoySettings = dataclasses.field(default_factory=EnvoySettings)
    recording: RecordingSettings = dataclasses.field(default_factory=RecordingSettings)
    telemetry: TelemetrySettings = dataclasses.field(default_factory=TelemetrySettings)
    workers: tuple[WorkerSpec, ...] = ()
    models: tuple[ModelSpec, ...] = ()
    plugins: tuple[PluginSpec, ...] = ()

    @property
    def policy_parameters(self) -> PolicyParameters:
        """The parameters of all policies."""
        names = [field.name for field in dataclasses.fields(PolicyParameters)]
        return PolicyParameters(**{name: getattr(self, name) for name in names})
