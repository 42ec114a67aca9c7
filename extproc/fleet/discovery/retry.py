"""How long to wait after failures in a row."""

from typing import NamedTuple


class Retry(NamedTuple):
    """Waits that begin with ``first_secs`` and double with every failure in a row, up to ``longest_secs``."""

    first_secs: float
    longest_secs: float

    def wait_secs(self, failures: int) -> float:
        """Return the wait after this many failures in a row, at least one."""
        # Beyond some number of failures the power would be too large for a float.
        return float(min(self.first_secs * 2 ** min(failures - 1, 64), self.longest_secs))
