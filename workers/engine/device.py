"""One GPU that several engines share by time slices, as they do without MPS."""


class Device:
    """Slows each engine's step down by the number of engines that have something to do.

    An engine looks again who else is busy after ``most_steps`` steps.
    """

    def __init__(self, *, most_steps: int = 4) -> None:
        self.most_steps = most_steps
        self._busy: set[object] = set()

    @property
    def slowdown(self) -> int:
        """How many times longer a step takes."""
        return max(len(self._busy), 1)

    def enter(self, engine: object) -> None:
        """An engine has something to do."""
        self._busy.add(engine)

    def leave(self, engine: object) -> None:
        """An engine has nothing to do."""
        self._busy.discard(engine)
