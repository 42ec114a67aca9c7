"""How many streams this process serves, for whoever looks at its row of the process table."""

from extproc.shm.processes import ProcessRow


class StreamMeter:
    """Shows the streams of this process in its row."""

    def __init__(self, row: ProcessRow) -> None:
        self._row = row
        self._total = 0

    def stream_opened(self, active: int) -> None:
        """A stream was opened; ``active`` are open now."""
        self._total += 1
        self._row.total_streams = self._total
        self._row.active_streams = active

    def stream_closed(self, active: int) -> None:
        """A stream has ended; ``active`` are open now."""
        self._row.active_streams = active
