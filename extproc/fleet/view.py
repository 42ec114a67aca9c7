"""The fleet as one router sees it."""

import logging
from collections.abc import Callable
from typing import Protocol

import msgspec

from extproc.config.model_list import names_of
from extproc.config.models import ModelSpec
from extproc.fleet.candidates import Candidates
from extproc.fleet.worker import Fleet, Worker

logger = logging.getLogger(__name__)


class FleetSource(Protocol):
    """Where the published fleet lies (:class:`extproc.shm.fleet.FleetDocument`)."""

    @property
    def generation(self) -> int:
        """Changes whenever a fleet is published; 0 before the first."""

    def read(self) -> tuple[int, bytes] | None:
        """The published document with its generation, or None when it was replaced while being read."""


class FleetView:
    """Who may take a request, worked out once for each published fleet.

    ``refresh`` costs one comparison of integers while nothing is published, and the look-ups hand out tuples made
    before, so a request costs nothing per worker. A document that cannot be read leaves the last good fleet in place;
    ``on_unreadable`` is called and the next ``refresh`` tries again.

    ``models`` are the configured models, and the same object until one of them changes: whoever loads them can compare
    with ``is`` after each ``refresh``.

    What a request names can only be looked up here, never stored: memory is bounded by the models that workers declare.
    """

    def __init__(self, source: FleetSource, *, on_unreadable: Callable[[], None] = lambda: None) -> None:
        self._source = source
        self._on_unreadable = on_unreadable
        self._decoder = msgspec.json.Decoder(Fleet)
        self._seen = 0
        self.generation = 0
        self.needs_model = False
        self.models: tuple[ModelSpec, ...] = ()
        self._workers: tuple[Worker, ...] = ()
        self._eligible = NOBODY
        self._generalists: tuple[Worker, ...] = ()
        self._specialists: dict[str, tuple[Worker, ...]] = {}
        self._by_model: dict[str, Candidates] = {}
        self._by_address: dict[str, dict[int, Worker]] = {}
        self._names: dict[str, ModelSpec] = {}
        self._anybody = NOBODY
        self._loaded_adapters: frozenset[str] = frozenset()
        self._any_model = False

    @property
    def synced(self) -> bool:
        """Whether a fleet was read at all."""
        return self.generation != 0

    def refresh(self) -> None:
        """Take over what was published since the last call."""
        if self._source.generation == self._seen:
            return
        found = self._source.read()
        if found is None:
            self._on_unreadable()
            return
        generation, document = found
        self._seen = generation
        try:
            fleet = self._decoder.decode(document)
        except msgspec.DecodeError:
            # It passed its checksum, so reading it once more cannot help; the next one may be better.
            logger.exception("Generation %d of the fleet is not a fleet", generation)
            self._on_unreadable()
            return
        if fleet.models != self.models:
            self.models = fleet.models
            self._names = {name: spec for spec in fleet.models for name in names_of(spec)}
        self._adopt(fleet.workers)
        self.generation = generation

    def workers(self) -> tuple[Worker, ...]:
        """Every known worker, by id."""
        return self._workers

    def at(self, address: str, rank: int | None = None) -> Worker | None:
        """The worker at an address, in whatever state; None when there is none.

        Of the ranks of a server it is the one with ``rank``, where that was named and it has it, else its first.
        """
        ranks = self._by_address.get(address)
        return None if ranks is None else ranks.get(rank or 0) or ranks[min(ranks)]

    def spec_of(self, model: str) -> ModelSpec | None:
        """The configured model that a request's ``model`` stands for, by name, alias or adapter."""
        return self._names.get(model)

    def candidates(self, model: str | None) -> Candidates:
        """Workers that may take a request for ``model`` now, by id; ``None`` is a request without a model: all.

        A model's workers are those that declare any of its names, and those that serve any model. Of an adapter's
        workers only the best prepared are left: those that have it loaded; else those with room for it, or that do not
        tell; else those that are loading it; else all.
        """
        if model is None:
            return self._eligible
        found = self._by_model.get(model)
        if found is not None:
            return found
        spec = self._names.get(model)
        names = {model} if spec is None else {spec.name, *spec.aliases, model}
        if not names & self._specialists.keys():
            # What a request names is not kept, unless the configuration or a worker names it too.
            serving = tuple(self._generalists)
            return self._keep(model, serving) if spec is not None or self._is_adapter(model) else self._anybody
        declared = {worker.id: worker for name in names for worker in self._specialists.get(name, ())}
        serving = tuple(sorted((*declared.values(), *self._generalists), key=_id))
        return self._keep(model, serving)

    def serves(self, model: str) -> bool:
        """Whether any known worker, in whatever state, serves ``model``."""
        if self._any_model or model in self._specialists:
            return True
        spec = self._names.get(model)
        return spec is not None and any(name in self._specialists for name in (spec.name, *spec.aliases))

    def _keep(self, model: str, serving: tuple[Worker, ...]) -> Candidates:
        if self._is_adapter(model):
            serving = best_prepared(serving, model)
        candidates = self._by_model[model] = Candidates(serving)
        return candidates

    def _is_adapter(self, model: str) -> bool:
        spec = self._names.get(model)
        return model in self._loaded_adapters or (spec is not None and model in spec.lora_adapters)

    def _adopt(self, workers: tuple[Worker, ...]) -> None:
        self._workers = tuple(sorted(workers, key=_id))
        eligible = tuple(worker for worker in self._workers if worker.eligible)
        self._eligible = Candidates(eligible)
        self._generalists = tuple(worker for worker in eligible if not worker.models)
        self._anybody = Candidates(self._generalists)
        specialists: dict[str, list[Worker]] = {}
        for worker in self._workers:
            for model in worker.models:
                served = specialists.setdefault(model, [])
                if worker.eligible:
                    served.append(worker)
        self._specialists = {model: tuple(served) for model, served in specialists.items()}
        self._by_model = {}
        # Of two at one address, while a worker gets another id, the one that is in use counts.
        by_address: dict[str, dict[int, Worker]] = {}
        for worker in (*self._workers, *eligible):
            by_address.setdefault(worker.address, {})[worker.rank] = worker
        self._by_address = by_address
        self._loaded_adapters = frozenset(
            name for worker in self._workers if worker.lora for name in (*worker.lora.running, *worker.lora.waiting)
        )
        self._any_model = any(not worker.models for worker in self._workers)
        self.needs_model = bool(specialists)


def best_prepared(workers: tuple[Worker, ...], adapter: str) -> tuple[Worker, ...]:
    """Return those of some workers that can serve an adapter soonest."""

    def rank(worker: Worker) -> int:
        if worker.lora is None:
            return 1
        if adapter in worker.lora.running:
            return 0
        if worker.lora.has_room:
            return 1
        return 2 if adapter in worker.lora.waiting else 3

    ranks = [rank(worker) for worker in workers]
    best = min(ranks, default=0)
    return tuple([worker for worker, ranked in zip(workers, ranks, strict=True) if ranked == best])


NOBODY = Candidates(())


def _id(worker: Worker) -> str:
    return worker.id
