"""How long to wait before a dead process is replaced."""


class Backoff:
    """Waits that double with every death in a row, up to a longest one.

    The row ends when a process has been ready for ``settled_secs``: one that crashes now and then is replaced quickly,
    one that crashes at once, or soon after it is ready, is not restarted in a busy loop.
    """

    def __init__(self, *, first_secs: float, longest_secs: float, settled_secs: float) -> None:
        self._first_secs = first_secs
        self._longest_secs = longest_secs
        self._settled_secs = settled_secs
        self._next_secs = first_secs

    def after_death(self, *, ready_for_secs: float) -> float:
        """Return the seconds to wait now; ``ready_for_secs`` is 0 when the process was never ready."""
        if ready_for_secs >= self._settled_secs:
            self.reset()
        wait_secs = min(self._next_secs, self._longest_secs)
        self._next_secs = min(2 * self._next_secs, self._longest_secs)
        return wait_secs

    def reset(self) -> None:
        """Begin again with the shortest wait."""
        self._next_secs = self._first_secs
