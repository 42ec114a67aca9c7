"""The difference between two fleets, for the log."""

import dataclasses
from collections.abc import Iterator, Sequence

from extproc.config.models import ModelSpec
from extproc.fleet.worker import Fleet, Worker


def describe_changes(before: Fleet, after: Fleet) -> Iterator[str]:
    """Return a sentence for everything that differs."""
    yield from _worker_changes(before.workers, after.workers)
    yield from _model_changes(before.models, after.models)


def _worker_changes(before: Sequence[Worker], after: Sequence[Worker]) -> Iterator[str]:
    old = {worker.key: worker for worker in before}
    new = {worker.key: worker for worker in after}
    for key, worker in new.items():
        name = _name(worker)
        known = old.get(key)
        if known is None:
            yield f"{name} is added in slot {worker.slot}, {_health(worker)}"
            continue
        if worker.state != known.state:
            yield f"{name} is {worker.state}"
        if worker.healthy != known.healthy:
            yield f"{name} is {_health(worker)}"
        if worker.models != known.models:
            yield f"{name} serves {', '.join(worker.models) or 'any model'}"
    for key, worker in old.items():
        if key not in new:
            yield f"{_name(worker)} is gone"


def _model_changes(before: Sequence[ModelSpec], after: Sequence[ModelSpec]) -> Iterator[str]:
    old = {model.name: model for model in before}
    new = {model.name: model for model in after}
    for name, model in new.items():
        known = old.get(name)
        if known is None:
            yield f"Model {name} is added"
        elif model != known:
            fields = [field.name for field in dataclasses.fields(model)]
            changed = ", ".join(field for field in fields if getattr(model, field) != getattr(known, field))
            yield f"Model {name} is changed: {changed}"
    for name in old:
        if name not in new:
            yield f"Model {name} is gone"


def _name(worker: Worker) -> str:
    return f"Worker {worker.id}" if worker.id == worker.address else f"Worker {worker.id} at {worker.address}"


def _health(worker: Worker) -> str:
    return "healthy" if worker.healthy else "not healthy"
