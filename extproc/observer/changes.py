"""The difference between two fleets, for the log."""

from collections.abc import Iterator, Sequence

from extproc.fleet.worker import Worker


def describe_changes(before: Sequence[Worker], after: Sequence[Worker]) -> Iterator[str]:
    """Return a sentence for everything that differs."""
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


def _name(worker: Worker) -> str:
    return f"Worker {worker.id}" if worker.id == worker.address else f"Worker {worker.id} at {worker.address}"


def _health(worker: Worker) -> str:
    return "healthy" if worker.healthy else "not healthy"
