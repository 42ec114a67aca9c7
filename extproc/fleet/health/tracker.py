"""What a worker's probe results mean for its health."""


class HealthTracker:
    """The health of one worker, from its probe results alone; no clock, no I/O.

    A healthy worker is taken out by ``unhealthy_threshold`` bad results in a row and brought back by
    ``healthy_threshold`` good ones. ``on_trial`` is for a worker of which nothing is known and which gets no request
    until it has proved itself: its first result alone decides, whatever the thresholds are.
    """

    __slots__ = ("_contrary", "_healthy_threshold", "_unhealthy_threshold", "healthy", "on_trial")

    def __init__(
        self, *, unhealthy_threshold: int, healthy_threshold: int, healthy: bool, on_trial: bool = False
    ) -> None:
        assert not (healthy and on_trial)
        self._unhealthy_threshold = unhealthy_threshold
        self._healthy_threshold = healthy_threshold
        self._contrary = 0
        self.healthy = healthy
        self.on_trial = on_trial

    def record(self, *, good: bool) -> bool:
        """Take one result; tells whether ``healthy`` or ``on_trial`` changed."""
        if self.on_trial:
            self.on_trial = False
            self.healthy = good
            return True
        if good == self.healthy:
            self._contrary = 0
            return False
        self._contrary += 1
        if self._contrary < (self._healthy_threshold if good else self._unhealthy_threshold):
            return False
        self.healthy = good
        self._contrary = 0
        return True
