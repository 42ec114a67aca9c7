"""Prompts without tokens: what is alike at the beginning stays alike in its block hashes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.api.body import decode
from extproc.api.paths import decoder_for
from extproc.routing.text_prompt import MAX_TEXT_BYTES, text_prompt
from extproc.tokens.prompt_tokens import PromptTokens

BLOCK_BYTES = 64


def prompt_of(path: str, model: str = "m", **fields: Any) -> PromptTokens:  # noqa: ANN401
    (prompt,) = prompts_of(path, model, **fields)
    return prompt


def prompts_of(path: str, model: str = "m", **fields: Any) -> tuple[PromptTokens, ...]:  # noqa: ANN401
    decoder = decoder_for("POST", path)
    assert decoder is not None
    return text_prompt(decode(decoder, json.dumps({"model": model, **fields}).encode()), model)


def chat(messages: list[dict[str, str]], **fields: Any) -> PromptTokens:  # noqa: ANN401
    return prompt_of("/v1/chat/completions", messages=messages, **fields)


turns = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text(max_size=200)}),
    min_size=1,
    max_size=6,
)


@given(turns, turns, st.sampled_from([{}, {"tools": [{"type": "function"}]}, {"reasoning_effort": "low"}]))
def test_a_conversation_that_grows_keeps_its_block_hashes(
    before: list[dict[str, str]], added: list[dict[str, str]], more: dict[str, Any]
) -> None:
    first, second = chat(before, **more), chat(before + added, **more)
    assert len(second.block_hashes) >= len(first.block_hashes)
    assert second.block_hashes[: len(first.block_hashes)].tolist() == first.block_hashes.tolist()


@given(st.text(max_size=300), st.text(max_size=300))
def test_a_text_that_grows_keeps_its_block_hashes(before: str, added: str) -> None:
    first = prompt_of("/v1/completions", prompt=before)
    second = prompt_of("/v1/completions", prompt=before + added)
    assert second.block_hashes[: len(first.block_hashes)].tolist() == first.block_hashes.tolist()


@pytest.mark.parametrize(
    ("path", "fields", "grown"),
    [
        ("/v1/messages", {"max_tokens": 1, "system": "s" * 300}, "messages"),
        ("/v1/responses", {"instructions": "s" * 300}, "input"),
    ],
)
def test_what_other_apis_add_to_comes_last_too(path: str, fields: dict[str, Any], grown: str) -> None:
    turn = {"role": "user", "content": "x" * 200}
    first, second = (prompt_of(path, **(fields | {grown: [turn] * count})) for count in (2, 3))
    assert len(first.block_hashes) > 10
    assert second.block_hashes[: len(first.block_hashes)].tolist() == first.block_hashes.tolist()


LONG = [{"role": "user", "content": "x" * 300}]


@pytest.mark.parametrize(
    "other",
    [
        {"model": "other"},
        {"cache_salt": "tenant"},
        {"tools": [{"type": "function"}]},
        {"messages": [{"role": "user", "content": "y" + "x" * 299}]},
    ],
    ids=["model", "salt", "tools", "first word"],
)
def test_what_sets_prompts_apart_sets_every_block_apart(other: dict[str, Any]) -> None:
    first = prompt_of("/v1/chat/completions", messages=LONG)
    fields: dict[str, Any] = {"messages": LONG, **other}
    second = prompt_of("/v1/chat/completions", **fields)
    assert not set(first.block_hashes.tolist()) & set(second.block_hashes.tolist())


def test_four_bytes_stand_for_a_token_and_sixteen_tokens_for_a_block() -> None:
    prompt = chat(LONG)
    assert prompt.cache == "text"
    assert not prompt.exact
    assert len(prompt.ids) == prompt.text_bytes // 4
    assert len(prompt.block_hashes) == prompt.text_bytes // BLOCK_BYTES


def test_of_a_long_text_the_beginning_is_looked_at() -> None:
    prompt = chat([{"role": "user", "content": "x" * (2 * MAX_TEXT_BYTES)}])
    assert prompt.text_bytes == MAX_TEXT_BYTES
    shorter = chat([{"role": "user", "content": "x" * 1000}])
    assert prompt.block_hashes[: len(shorter.block_hashes) - 1].tolist() == shorter.block_hashes[:-1].tolist()


@pytest.mark.parametrize("prompt", ["", "a"])
def test_a_text_shorter_than_a_block_has_no_hash(prompt: str) -> None:
    assert len(prompt_of("/v1/completions", prompt=prompt).block_hashes) == 0


def test_a_body_without_a_text_to_go_by_has_no_prompt() -> None:
    assert prompts_of("/v1/rerank", query="a", documents=["b"]) == ()
