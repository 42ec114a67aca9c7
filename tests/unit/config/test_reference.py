"""The page itself is compared with the declarations in tests/architecture."""

from typing import Any

import pytest

from extproc.config.catalogue import Entry, entries
from extproc.config.reference import bounds_text, default_text, render
from extproc.config.setting import Declaration


def entry(default: Any, *, low: float | None = None, high: float | None = None) -> Entry:  # noqa: ANN401
    return Entry("group.name", type(default), default, Declaration(help="", low=low, high=high))


@pytest.mark.parametrize(
    ("default", "text"),
    [
        (True, "true"),
        (False, "false"),
        (33_554_432, "33_554_432"),
        (2.0, "2"),
        (0.05, "0.05"),
        ("", '""'),
        ("a", "a"),
        ((), "[]"),
    ],
)
def test_defaults_are_shown_as_they_would_be_written(default: object, text: str) -> None:
    assert default_text(entry(default)) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(None, None, ""), (0, None, "at least 0"), (None, 9, "at most 9"), (0.5, 86400, "0.5 to 86,400")],
)
def test_bounds_are_shown_in_words(low: float | None, high: float | None, text: str) -> None:
    assert bounds_text(entry(1, low=low, high=high)) == text


def test_a_row_holds_everything_that_is_declared() -> None:
    setting = entries()["server.max_streams"]
    assert (
        "| `max_streams` | whole number | `20_000` streams | 1 to 1,000,000 | "
        f"{setting.declaration.help} | `EXTPROC_SERVER_MAX_STREAMS` |"
    ) in render()
