import contextlib
import math
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.config.catalogue import Entry, entries
from extproc.config.convert import from_file, from_text, type_name
from extproc.config.setting import Declaration

Colour = Literal["red", "green"]


def entry_of(type_: object, *, low: float | None = None, high: float | None = None, unit: str = "") -> Entry:
    return Entry("group.name", type_, None, Declaration(help="", low=low, high=high, unit=unit))


@pytest.mark.parametrize(
    ("type_", "value", "expected"),
    [
        (bool, True, True),
        (int, 3, 3),
        (float, 2.5, 2.5),
        (float, 3, 3.0),
        (str, "é ok", "é ok"),
        (Colour, "green", "green"),
        (tuple[str, ...], ["a", "b"], ("a", "b")),
        (tuple[str, ...], [], ()),
    ],
)
def test_takes_values_of_the_declared_type(type_: object, value: object, expected: object) -> None:
    converted = from_file(value, entry_of(type_))
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("type_", "value", "message"),
    [
        (bool, 1, "must be true or false, not 1"),
        (bool, "true", "must be true or false, not 'true'"),
        (int, "3", "must be a whole number, not '3'"),
        (int, True, "must be a whole number, not true"),
        (int, 3.0, "must be a whole number, not 3.0"),
        (int, None, "must be a whole number, not nothing"),
        (int, 2**60, "must be a whole number, not a larger one"),
        (float, "1", "must be a number, not '1'"),
        (float, False, "must be a number, not false"),
        (float, math.nan, "must be a number, not nan"),
        (float, math.inf, "must be a number, not inf"),
        (float, 10**400, "must be a number, not a larger one"),
        (str, 3, "must be text, not 3 (put quotes around it)"),
        (str, [], "must be text, not a list"),
        (str, "a\nb", r"must be one line of printable text, not 'a\nb'"),
        (str, "a\0b", r"must be one line of printable text, not 'a\x00b'"),
        (str, "a\udc80", r"must be one line of printable text, not 'a\udc80'"),
        (str, "x" * 4097, "must be at most 4,096 characters long"),
        (Colour, "gren", "must be `red` or `green`, not 'gren' - did you mean `green`?"),
        (Colour, {}, "must be `red` or `green`, not a mapping"),
        (tuple[str, ...], "a", "must be a list of text, not 'a'"),
        (tuple[str, ...], ["a", 3], "entry 1 must be text, not 3 (put quotes around it)"),
        (tuple[str, ...], ["a"] * 4097, "must have at most 4,096 entries"),
    ],
)
def test_converts_nothing_in_silence(type_: object, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        from_file(value, entry_of(type_))
    assert str(caught.value) == message


def test_bounds_are_inclusive() -> None:
    entry = entry_of(int, low=2, high=4, unit="probes")
    assert [from_file(value, entry) for value in (2, 4)] == [2, 4]
    with pytest.raises(ValueError, match="must be at least 2 probes, not 1"):
        from_file(1, entry)
    with pytest.raises(ValueError, match="must be at most 4 probes, not 5"):
        from_file(5, entry)


@pytest.mark.parametrize(
    ("type_", "text", "expected"),
    [
        (bool, "true", True),
        (bool, "false", False),
        (int, "-7", -7),
        (int, "33_554_432", 33554432),
        (float, "2", 2.0),
        (float, ".5", 0.5),
        (float, "1e3", 1000.0),
        (str, "", ""),
        (str, "12", "12"),
        (Colour, "red", "red"),
        (tuple[str, ...], "a, b", ("a", "b")),
        (tuple[str, ...], "", ()),
    ],
)
def test_reads_text_of_the_environment_and_of_flags(type_: object, text: str, expected: object) -> None:
    converted = from_text(text, entry_of(type_))
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("type_", "text"),
    [
        (bool, "1"),
        (bool, "yes"),
        (bool, ""),
        (int, ""),
        (int, "1.0"),
        (int, " 1"),
        (int, "1__0"),
        (int, "٣"),
        (int, "9" * 33),
        (float, "nan"),
        (float, "inf"),
        (float, "1e999"),
        (float, ""),
        (Colour, "blue"),
        (str, "a\tb"),
    ],
)
def test_refuses_text_that_is_not_of_the_type(type_: object, text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be"):
        from_text(text, entry_of(type_))


@given(st.text(), st.sampled_from(list(entries().values())))
def test_any_text_is_a_valid_value_or_a_value_error(text: str, entry: Entry) -> None:
    with contextlib.suppress(ValueError):
        value = from_text(text, entry)
        assert from_file(value, entry) == value


def test_names_every_type_that_is_declared() -> None:
    assert type_name(Colour) == "`red` or `green`"
    assert all(type_name(entry.type) for entry in entries().values())
