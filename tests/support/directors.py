"""A director over shared state of its own, for tests that ask for decisions."""

from collections.abc import Callable

import msgspec

from extproc.config.admission import AdmissionSettings
from extproc.config.hooks import HookSettings
from extproc.config.models import ModelSpec
from extproc.errors import PluginUnusable
from extproc.fleet.view import FleetView
from extproc.fleet.worker import Fleet, Worker
from extproc.policies.base import Policy, PolicyContext
from extproc.routing.admission import Admission
from extproc.routing.director import Director, PromptSource, RequestRecorder
from extproc.routing.hooks import HookRunner, RequestHook
from extproc.routing.patience import Patience
from extproc.routing.selection import PolicySelector
from extproc.shm.admission import AdmissionColumns
from extproc.shm.layout import Quantity
from extproc.telemetry.metrics import Metrics
from tests.support.fleets import Shared

MakePolicy = Callable[[PolicyContext], Policy]


class Published:
    """A published fleet in memory."""

    def __init__(self, *workers: Worker, models: tuple[ModelSpec, ...] = ()) -> None:
        self.generation = 0
        self.models = models
        self.publish(*workers)

    def publish(self, *workers: Worker) -> None:
        self.generation += 1
        self._document = msgspec.json.encode(Fleet(workers=workers, models=self.models))

    def read(self) -> tuple[int, bytes]:
        return self.generation, self._document


class Directing:
    """One process's director and what it counts. ``policies`` are made by their keys; the first is the default."""

    def __init__(
        self,
        *,
        fleet: FleetView,
        prompts: PromptSource,
        policies: dict[str, MakePolicy],
        shadow: MakePolicy | None = None,
        overrides: tuple[str, ...] = (),
        hooks: tuple[tuple[str, RequestHook], ...] = (),
        hook_settings: HookSettings | None = None,
        admission: AdmissionSettings | None = None,
        shared: Shared | None = None,
        always_tokenize: bool = False,
        single_endpoint: bool = False,
        recorder: RequestRecorder | None = None,
        guards_cache_events: bool = False,
    ) -> None:
        self.shared = shared or Shared()
        self.metrics = Metrics()
        context = self.shared.context()
        self.policies = {name: make(context) for name, make in policies.items()}
        self.columns = AdmissionColumns(self.shared.segment, process_slot=0)
        self.waits: list[float] = []
        self.admission = Admission(
            settings=admission or AdmissionSettings(),
            columns=self.columns,
            models=lambda: fleet.models,
            on_waited=self.waits.append,
            assumed_answer_tokens=256,
        )
        self.accounts = self.shared.accounts(worker_at=fleet.at)
        self.director = Director(
            fleet=fleet,
            prompts=prompts,
            selector=PolicySelector(
                make=self.policy,
                default=next(iter(policies)),
                shadow=None if shadow is None else shadow(context),
                overrides=overrides,
                metrics=self.metrics,
            ),
            breakers=self.shared.breakers,
            accounts=self.accounts,
            admission=self.admission,
            hooks=HookRunner(hooks=hooks, settings=hook_settings or HookSettings(), metrics=self.metrics),
            patience=Patience(table=self.shared.table, base_secs=10),
            metrics=self.metrics,
            always_tokenize=always_tokenize,
            single_endpoint=single_endpoint,
            recorder=recorder,
            guards_cache_events=guards_cache_events,
        )

    def policy(self, name: str) -> Policy:
        """What the selector makes its policies with."""
        if name not in self.policies:
            raise PluginUnusable(f"{name}: there is no such policy")
        return self.policies[name]

    @property
    def in_flight(self) -> dict[int, int]:
        """Requests in flight by worker slot, where there are any."""
        return {slot: count for slot, count in enumerate(self.shared.table.in_flight()) if count}

    def totals(self, quantity: Quantity) -> int:
        """One quantity over all workers."""
        return int(self.shared.table.totals(quantity).sum())
