"""What sets blocks apart besides tokens is understood, or keeps them from being placed."""

from collections.abc import Sequence

import pytest

from extproc.kvevents.extra_keys import read_extra_keys


@pytest.mark.parametrize(
    ("keys", "lora", "wanted"),
    [
        ([None, None], None, ("", 2)),
        ([[], None], None, ("", 2)),
        ([["a"], ["a"]], "a", ("", 2)),
        ([["s"], None], None, ("s", 2)),
        ([["a", "s"], ["a"]], "a", ("s", 2)),
        ([["a", "a"], ["a"]], "a", ("a", 2)),
        ([[("lora", "a", "/p"), ("cache_salt", "s")], [["lora", "a", "/p"]]], "a", ("s", 2)),
        ([["s"], ["s"]], None, ("s", 1)),
        ([["a"], ["b"]], "a", ("", 1)),
        ([["s"], [["image", 4]]], None, ("s", 1)),
        ([[["image", 4], "s"], None], None, ("", 0)),
        ([["s", b"digest"], None], None, ("", 0)),
        ([[("lora_id", 4)], None], None, ("", 0)),
        ([None], None, ("", 0)),
        (["text", None], None, ("", 0)),
    ],
)
def test_the_start_of_a_prompt(keys: Sequence[object], lora: str | None, wanted: tuple[str, int]) -> None:
    assert read_extra_keys(keys, blocks=2, lora_name=lora, is_start=True) == wanted


def test_a_salt_stands_at_the_start_alone() -> None:
    assert read_extra_keys([["s"], None], blocks=2, lora_name=None, is_start=False) == ("", 0)
