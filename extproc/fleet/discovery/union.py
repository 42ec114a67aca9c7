"""Lists of several sources made one. Pure."""

import dataclasses
from collections.abc import Iterable, Sequence

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
        room = MAX_WORKERS - len(workers), MAX_MODELS - len(models)
        workers += free_workers[: room[0]]
        models += free_models[: room[1]]
        conflicts.append(frozenset(refused + refused_models))
        beyond = [_name(spec) for spec in free_workers[room[0] :]] + [spec.name for spec in free_models[room[1] :]]
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
            if spec.address in self._addresses or _name(spec) in self._ids:
                refused.append(_name(spec))
                continue
            free.append(spec)
            self._addresses.add(spec.address)
            self._ids.add(_name(spec))
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


def _name(spec: WorkerSpec) -> str:
    return spec.id or spec.address
