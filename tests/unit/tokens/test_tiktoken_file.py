"""Tokenizers from tiktoken files, against the `tiktoken` package."""

import base64

import pytest
import tiktoken
from tokenizers import Tokenizer

from extproc.tokens.tiktoken_file import DEFAULT_PATTERN, PATTERNS, read_tiktoken
from tests.support import tokenizers_for_tests as trained
from tests.support.models import random_texts

RANKS = trained.ranks()
SPECIAL = {len(RANKS): "<|a|>", len(RANKS) + 3: "<|b|>"}


def lines(tokens: list[bytes]) -> list[bytes]:
    return [base64.b64encode(token) + b" " + str(rank).encode() for rank, token in enumerate(tokens)]


def content(tokens: list[bytes]) -> bytes:
    return b"\n".join(lines(tokens)) + b"\n"


def read(data: bytes, pattern: str = DEFAULT_PATTERN) -> Tokenizer:
    return read_tiktoken(data, pattern=pattern, special_tokens=SPECIAL)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_ids_are_those_of_tiktoken(pattern: str) -> None:
    ours = read(content(RANKS), pattern)
    theirs = tiktoken.Encoding(
        "test",
        pat_str=PATTERNS[pattern],
        mergeable_ranks={token: rank for rank, token in enumerate(RANKS)},
        special_tokens={token: number for number, token in SPECIAL.items()},
    )
    for text in random_texts(list(SPECIAL.values()), count=200):
        assert ours.encode(text).ids == theirs.encode(text, allowed_special="all"), ascii(text)


def test_a_token_that_no_merges_lead_to_is_taken_as_a_whole() -> None:
    assert not any(piece in RANKS for piece in (b"zq", b"qx", b"xj"))
    made = read_tiktoken(content([*RANKS, b"zqxj"]), pattern="cl100k", special_tokens={})
    assert made.encode("zqxj").ids == [len(RANKS)]


def test_the_known_patterns_split_numbers_differently() -> None:
    counts = {name: len(read(content(RANKS), name).encode("1234567").tokens) for name in PATTERNS}
    assert counts["qwen"] == 7
    assert counts["cl100k"] < 7


def test_a_pattern_may_be_a_regular_expression() -> None:
    assert len(read(content(RANKS), "[a-z]|[^a-z]").encode("the").ids) == 3
    assert len(read(content(RANKS), "[a-z]+|[^a-z]+").encode("the").ids) == 1


def test_ids_between_are_reserved_and_special_tokens_keep_theirs() -> None:
    made = read(content(RANKS))
    first = len(RANKS)
    assert [made.id_to_token(first + place) for place in range(4)] == [
        "<|a|>",
        f"<|reserved_token_{first + 1}|>",
        f"<|reserved_token_{first + 2}|>",
        "<|b|>",
    ]
    assert made.get_vocab_size() == first + 4


def test_a_file_without_special_tokens_has_its_own_tokens_only() -> None:
    assert read_tiktoken(content(RANKS), pattern="qwen", special_tokens={}).get_vocab_size() == len(RANKS)


def test_the_order_of_the_lines_and_empty_ones_do_not_matter() -> None:
    shuffled = b"\r\n\n".join(reversed(lines(RANKS)))
    for text in random_texts(["<|a|>"], count=20):
        assert read(shuffled).encode(text).ids == read(content(RANKS)).encode(text).ids


@pytest.mark.parametrize(
    "line",
    [b"YQ==", b"YQ== 1 2", b"YQ== one", b"Y 1", b"$$$$ 1", b"\xff\xfe 1", b"YQ== 1.5"],
    ids=["no rank", "three words", "no number", "bad padding", "no base64", "no text", "a fraction"],
)
def test_a_line_that_cannot_be_read_is_named(line: bytes) -> None:
    data = b"\n".join([*lines([b"a", b"b"]), line, *lines([b"c"])])
    with pytest.raises(ValueError, match="line 3 is no base64 token and its rank"):
        read(data)


@pytest.mark.parametrize(
    "data",
    [b"", b"\n \n", b"YQ== 1\n", b"YQ== 0\nYg== 2\n", b"YQ== 0\nYg== 0\n", b"YQ== 0\nYQ== 1\n", b"YQ== -1\nYg== 0\n"],
    ids=["empty", "blank", "does not begin with 0", "a gap", "a rank twice", "a token twice", "negative"],
)
def test_ranks_that_are_not_the_numbers_from_zero_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="ranks are not the numbers from 0 on"):
        read(data)
