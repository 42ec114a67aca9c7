"""Lists of several sources made one. Pure."""

import dataclasses
from collections.abc import Iterable, Sequence
from itertools import accumulate

from extproc.config.fleet import WorkerSpec
from extproc.config.load import Lists
from extproc.config.model_list import MAX_MODELS, names_of
from extproc.config.models import ModelSpec
from extproc.config.workers import MAX_WORKERS


@dataclasses.dataclass(frozen=True, slots=True)
class United:
    """One pair of lists, and what of each source is not in it, by name: taken by an earlier source, or beyond a limit.

    Both are in the order of the sources.
    """

    lists: Lists
    conflicts: tuple[frozenset[str], ...]
    too_many: tuple[frozenset[str], ...]


def unite(sources: Sequence[Lists]) -> United:
    """Join lists; what two of them have is taken from the first one.

    Workers are the same when they share an address or an id, models when they share any name.
    """
    workers: list[WorkerSpec] = []
    models: list[ModelSpec] = []
    taken = _Taken()
    conflicts: list[frozenset[str]] = []
    too_many: list[frozenset[str]] = []
    for lists in sources:
        free_workers, refused = taken.take_workers(lists.workers)
        free_models, refused_models = taken.take_models(lists.models)
        fitting = _fitting(free_workers, MAX_WORKERS - sum([spec.data_parallel_size for spec in workers]))
        room = MAX_MODELS - len(models)
        workers += free_workers[:fitting]
        models += free_models[:room]
        conflicts.append(frozenset(refused + refused_models))
        beyond = [spec.name for spec in free_workers[fitting:]] + [spec.name for spec in free_models[room:]]
        too_many.append(frozenset(beyond))
    return United(Lists(tuple(workers), tuple(models)), tuple(conflicts), tuple(too_many))


def remaining(known: Lists, sources: Sequence[Lists]) -> Lists:
    """Return what of ``known`` none of the sources has."""
    taken = _Taken()
    for lists in sources:
        taken.take_workers(lists.workers)
        taken.take_models(lists.models)
    return Lists(tuple(taken.take_workers(known.workers)[0]), tuple(taken.take_models(known.models)[0]))


class _Taken:
    """The addresses and names that are taken so far."""

    def __init__(self) -> None:
        self._addresses: set[str] = set()
        self._ids: set[str] = set()
        self._models: set[str] = set()

    def take_workers(self, specs: Iterable[WorkerSpec]) -> tuple[list[WorkerSpec], list[str]]:
        """Return the workers that are still free, and the names of the others."""
        free, refused = [], []
        for spec in specs:
            ids = {spec.name, *spec.rank_ids}
            if spec.address in self._addresses or not self._ids.isdisjoint(ids):
                refused.append(spec.name)
                continue
            free.append(spec)
            self._addresses.add(spec.address)
            self._ids |= ids
        return free, refused

    def take_models(self, specs: Iterable[ModelSpec]) -> tuple[list[ModelSpec], list[str]]:
        """Return the models that are still free, and the names of the others."""
        free, refused = [], []
        for spec in specs:
            if not self._models.isdisjoint(names_of(spec)):
                refused.append(spec.name)
                continue
            free.append(spec)
            self._models.update(names_of(spec))
        return free, refused


def _fitting(specs: Sequence[WorkerSpec], room: int) -> int:
    """Return how many of the first servers have room with all their ranks."""
    ranks = accumulate([spec.data_parallel_size for spec in specs])
    return sum([taken <= room for taken in ranks])
