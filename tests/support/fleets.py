"""Workers and a fleet view made in memory, behind the same interface as the shared one."""

from extproc.fleet.worker import Worker


def worker(index: int, *, models: tuple[str, ...] = (), healthy: bool = True, draining: bool = False) -> Worker:
    """Worker ``w<index>`` at ``10.0.0.<index>:8000`` in slot ``index``."""
    return Worker(
        id=f"w{index}",
        address=f"10.0.0.{index}:8000",
        slot=index,
        models=models,
        state="draining" if draining else "active",
        healthy=healthy,
    )


def workers(count: int) -> tuple[Worker, ...]:
    return tuple(worker(index) for index in range(count))


class Column:
    """An in-flight column that also remembers how low it ever went."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.lowest = 0

    def add(self, worker_slot: int, delta: int) -> None:
        self.counts[worker_slot] = self.counts.get(worker_slot, 0) + delta
        self.lowest = min(self.lowest, self.counts[worker_slot])

    @property
    def total(self) -> int:
        return sum(self.counts.values())


class Turns:
    """A turn counter of one process."""

    def __init__(self) -> None:
        self._turn = -1

    def next(self) -> int:
        self._turn += 1
        return self._turn
