"""The root: every group by its name in the file."""

import dataclasses

from extproc.config.admin import AdminSettings
from extproc.config.dataplane import EnvoySettings
from extproc.config.discovery import DiscoverySettings
from extproc.config.fleet import FleetSettings, WorkerSpec
from extproc.config.models import ModelSpec
from extproc.config.plugins import PluginSpec
from extproc.config.policies import RoutingSettings
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
    tokens: TokensSettings = dataclasses.field(default_factory=TokensSettings)
    envoy: EnvoySettings = dataclasses.field(default_factory=EnvoySettings)
    telemetry: TelemetrySettings = dataclasses.field(default_factory=TelemetrySettings)
    workers: tuple[WorkerSpec, ...] = ()
    models: tuple[ModelSpec, ...] = ()
    plugins: tuple[PluginSpec, ...] = ()
