"""The fleet as one router sees it."""

import logging
from collections.abc import Callable
from typing import Protocol

import msgspec

from extproc.config.models import ModelSpec
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
        self._eligible: tuple[Worker, ...] = ()
        self._generalists: tuple[Worker, ...] = ()
        self._specialists: dict[str, tuple[Worker, ...]] = {}
        self._by_model: dict[str, tuple[Worker, ...]] = {}
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
        self._adopt(fleet.workers)
        if fleet.models != self.models:
            self.models = fleet.models
        self.generation = generation

    def workers(self) -> tuple[Worker, ...]:
        """Every known worker, by id."""
        return self._workers

    def candidates(self, model: str | None) -> tuple[Worker, ...]:
        """Workers that may take a request for ``model`` now, by id; ``None`` is a request without a model: all."""
        if model is None:
            return self._eligible
        found = self._by_model.get(model)
        if found is not None:
            return found
        specialists = self._specialists.get(model)
        if specialists is None:
            return self._generalists
        found = tuple(sorted(specialists + self._generalists, key=_id))
        self._by_model[model] = found
        return found

    def serves(self, model: str) -> bool:
        """Whether any known worker, in whatever state, serves ``model``."""
        return self._any_model or model in self._specialists

    def _adopt(self, workers: tuple[Worker, ...]) -> None:
        self._workers = tuple(sorted(workers, key=_id))
        self._eligible = tuple(worker for worker in self._workers if worker.eligible)
        self._generalists = tuple(worker for worker in self._eligible if not worker.models)
        specialists: dict[str, list[Worker]] = {}
        for worker in self._workers:
            for model in worker.models:
                served = specialists.setdefault(model, [])
                if worker.eligible:
                    served.append(worker)
        self._specialists = {model: tuple(served) for model, served in specialists.items()}
        self._by_model = {}
        self._any_model = any(not worker.models for worker in self._workers)
        self.needs_model = bool(specialists)


def _id(worker: Worker) -> str:
    return worker.id
