import dataclasses

import pytest

from extproc.config.entries import is_json_object, model_name_problem, read_entries, too_many
from extproc.config.setting import setting


@dataclasses.dataclass(frozen=True, slots=True)
class Pet:
    """One entry of the `pets` list."""

    name: str = setting("", "What it is called.")
    legs: int = setting(4, "How many it has.", unit="legs", low=0)


def read(value: object) -> tuple[list[tuple[int, Pet]], list[str]]:
    readable, faults = read_entries(value, name="pets", kind=Pet, most=4, needs="a `name`")
    return readable, [str(fault) for fault in faults]


def test_reads_entries_with_their_index() -> None:
    assert read([{"name": "a"}, {"legs": 6}]) == ([(0, Pet("a")), (1, Pet("", 6))], [])


def test_an_empty_list_is_a_list() -> None:
    assert read([]) == ([], [])


def test_what_cannot_be_read_is_left_out_with_every_fault() -> None:
    assert read([3, {"name": 1, "legs": -1, "tail": True}, {}]) == (
        [(2, Pet())],
        [
            "pets[0]: must be a mapping with a `name`, not 3",
            "pets[1].tail: unknown key",
            "pets[1].name: must be text, not 1 (put quotes around it)",
            "pets[1].legs: must be at least 0 legs, not -1",
        ],
    )


@pytest.mark.parametrize(
    ("value", "fault"),
    [("a", "pets: must be a list, not 'a'"), ([{}] * 5, "pets: must have at most 4 entries, not 5")],
)
def test_what_is_no_list_or_too_long_is_one_fault(value: object, fault: str) -> None:
    assert read(value) == ([], [fault])


def test_a_list_of_the_greatest_length_is_not_too_long() -> None:
    assert too_many("pets", [0] * 4, 4) == []
    assert [str(fault) for fault in too_many("pets", [0] * 5000, 4)] == ["pets: must have at most 4 entries, not 5,000"]


@pytest.mark.parametrize(("length", "good"), [(0, False), (1, True), (256, True), (257, False)])
def test_the_name_of_a_model_has_a_bearable_length(length: int, good: bool) -> None:
    assert (model_name_problem("x" * length) == "") is good


@pytest.mark.parametrize(
    ("text", "good"), [("{}", True), (' {"a": {}} ', True), ("[]", False), ("", False), ("{" * 9999, False)]
)
def test_a_json_object_is_known(text: str, good: bool) -> None:
    assert is_json_object(text) is good
