"""The printed rows: what was measured, and the bar that it is held against."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the report; ``held`` is None where there is no bar."""

    what: str
    measured: str
    bar: str = ""
    held: bool | None = None


def at_least(what: str, ratio: float, bar: float) -> Row:
    return Row(what, f"{ratio:.1f}x", f"≥ {bar:g}x", ratio >= bar)


def at_most(what: str, micros: float, bar: float) -> Row:
    return Row(what, f"{micros:.{0 if micros >= 100 else 1}f} µs", f"≤ {bar:g} µs", micros <= bar)


def print_rows(rows: Sequence[Row]) -> int:
    """Print the report; 1 when a bar is missed."""
    for row in rows:
        verdict = "" if row.held is None else "ok" if row.held else "MISSED"
        print(f"{verdict:<7}{row.what:<52}{row.measured:>18}{'   bar ' + row.bar if row.bar else ''}")
    return 0 if all(row.held is not False for row in rows) else 1
