"""What all bodies promise: parts that tell prompts apart, and refusals instead of failures."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.api.body import RequestBody, decode
from extproc.api.paths import DECODERS
from extproc.api.prompt_input import ChatInput, TextInput, TokenInput
from extproc.errors import InvalidRequest

USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f"}}
CHAT: Mapping[str, tuple[Any, ...]] = {
    "messages": ([USER], [USER, {"role": "assistant", "content": "hi"}]),
    "chat_template": (None, "", "{{ 1 }}"),
    "chat_template_kwargs": (None, {}, {"x": 1}, {"x": True}, {"enable_thinking": None}),
    "add_generation_prompt": (True, False),
    "continue_final_message": (True, False),
    "add_special_tokens": (True, False),
}
FIELDS: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "/v1/chat/completions": {
        **CHAT,
        "tools": (None, [], [TOOL]),
        "tool_choice": (None, "none", "auto", {"type": "function"}),
        "documents": (None, [], [{"text": "t"}]),
        "reasoning_effort": (None, "", "none", "low"),
        "kv_transfer_params": (None, {}, {"prompt_token_ids": [1]}),
    },
    "/tokenize": {**CHAT, "prompt": (None, "", "a"), "tools": (None, [], [TOOL])},
    "/v1/completions": {
        "prompt": (None, "", "a", ["a"], ["a", "b"], [1], [[1]], [1, 2], []),
        "prompt_embeds": (None, "e"),
        "add_special_tokens": (True, False),
    },
    "/v1/embeddings": {
        **CHAT,
        "input": (None, "", "a", ["a"], [1], [[1], []], [USER], [[USER]]),
        "padding": (None, "max_length", "do_not_pad"),
    },
    "/pooling": {"input": (None, "a", [1]), "data": (None, {"a": 1})},
    "/v1/responses": {
        "input": ("a", [], [USER], [{"type": "reasoning", "summary": [], "status": "incomplete"}]),
        "instructions": (None, "", "be"),
        "tools": (None, [], [{"type": "function", "name": "f"}], [{"type": "web_search"}]),
        "tool_choice": (None, "none", "auto"),
        "reasoning": (None, {}, {"effort": ""}, {"effort": "none"}, {"effort": "low"}),
        "previous_response_id": (None, "resp_1"),
        "prompt": (None, {"id": "p"}),
        "chat_template_kwargs": (None, {"x": 1}, {"tools": []}),
    },
    "/v1/messages": {
        "messages": ([USER], [{"role": "system", "content": "s"}]),
        "system": (None, "", "s", [{"type": "text", "text": "s"}]),
        "tools": (None, [], [{"name": "f", "input_schema": {}}]),
        "tool_choice": (None, {"type": "none"}, {"type": "auto"}),
        "thinking": (None, {"type": "disabled"}, {"type": "adaptive"}),
        "output_config": (None, {}, {"effort": "low"}, {"effort": ""}),
        "chat_template_kwargs": (None, {"x": 1}),
    },
    "/v1/rerank": {"query": ("q",), "documents": (["a"], [])},
    "/score": {"text_1": ("a",), "text_2": ("b",)},
}
SAMPLING = {
    "temperature": 0.5, "max_tokens": 7, "max_output_tokens": 7, "stream": True, "user": "u", "stop": ["x"], "n": 2,
    "seed": 3, "metadata": {"a": "b"}, "response_format": {"type": "json_object"}, "cache_salt": "s",
}  # fmt: skip

SECRET = "\u79d8\u5bc6"
KEYS = (
    "arguments", "content", "data", "definition", "function", "id", "input", "input_schema", "name", "parameters",
    "source", "summary", "text", "thinking", "tool", "tools", "url", SECRET,
)  # fmt: skip
KINDS = (
    "custom", "custom_tool_call", "function", "function_call", "function_call_output", "image", "input_image",
    "message", "namespace", "reasoning", "text", "thinking", "tool_addition", "tool_definition", "tool_reference",
    "tool_removal", "tool_result", "tool_use",
)  # fmt: skip
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(["", SECRET]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
        | st.builds(
            lambda value, kind, role: {**value, "type": kind, "role": role},
            st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
            st.sampled_from(KINDS),
            st.sampled_from(["assistant", "system", "user", SECRET]),
        )
    ),
    max_leaves=12,
)


def bodies(path: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in FIELDS[path].items()})


def read(path: str, fields: Mapping[str, Any]) -> RequestBody:
    body: RequestBody = decode(DECODERS[path], json.dumps({"model": "m", **fields}).encode())
    return body


def shown(body: RequestBody) -> str:
    """The prompt in a form that shows every difference."""
    try:
        prompt = body.prompt_input()
    except InvalidRequest as error:
        return f"{error.message} {error.param}"
    return repr([ids.tolist() for ids in prompt.prompts]) if isinstance(prompt, TokenInput) else repr(prompt)


def smallest(path: str) -> dict[str, Any]:
    """A body with a prompt, and nothing that is not needed."""
    name = next(name for name in ("messages", "input", "prompt", "query", "text_1") if name in FIELDS[path])
    return {name: next(value for value in FIELDS[path][name] if value is not None)}


def test_every_path_has_its_fields_here() -> None:
    assert set(FIELDS) == set(DECODERS)


def variants(path: str, fields: Mapping[str, Any]) -> Iterator[RequestBody]:
    """Bodies that differ from one in a single field, as far as they can be read."""
    for field, values in FIELDS[path].items():
        for value in values:
            with contextlib.suppress(InvalidRequest):
                yield read(path, {**fields, field: value})


@given(st.data())
def test_equal_parts_mean_equal_prompts(data: st.DataObject) -> None:
    known: dict[tuple[bytes, ...], str] = {}
    for path in data.draw(st.permutations(sorted(FIELDS)))[:2]:
        for body in variants(path, smallest(path) | data.draw(bodies(path))):
            parts = body.prompt_parts()
            if parts is None:
                assert body.prompt_input() is None
            else:
                assert known.setdefault(parts, shown(body)) == shown(body)


@pytest.mark.parametrize("path", FIELDS)
def test_how_to_sample_is_no_part_of_the_prompt(path: str) -> None:
    assert read(path, smallest(path)).prompt_parts() == read(path, smallest(path) | SAMPLING).prompt_parts()


@pytest.mark.parametrize("path", FIELDS)
@given(data=st.data())
def test_any_value_is_converted_or_refused_and_never_quoted(path: str, data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(sorted(FIELDS[path])))
    refusal = ""
    try:
        body = read(path, smallest(path) | {field: data.draw(json_values | st.lists(json_values, max_size=3))})
        body.prompt_parts()
        prompt = body.prompt_input()
        assert prompt is None or isinstance(prompt, ChatInput | TextInput | TokenInput)
        body.validate()
    except InvalidRequest as error:
        refusal = f"{error.message} {error.param}"
    assert not set(SECRET) & set(refusal)


def read_all(path: str, content: str) -> None:
    body: RequestBody = decode(DECODERS[path], content.encode())
    body.validate()
    body.prompt_parts()
    body.prompt_input()


@pytest.mark.parametrize("path", FIELDS)
@pytest.mark.parametrize("depth", [10, 100, 900, 100_000])
def test_deep_nesting_is_read_or_refused(path: str, depth: int) -> None:
    nested = "[" * depth + "]" * depth
    for field in FIELDS[path]:
        others = {name: value for name, value in smallest(path).items() if name != field}
        with contextlib.suppress(InvalidRequest):
            read_all(path, json.dumps({"model": "m", **others})[:-1] + f', "{field}": {nested}}}')


def test_calls_of_tools_are_read_or_refused_at_every_depth() -> None:
    refused = []
    for depth in range(1, 1100):
        nested = "[" * depth + "]" * depth
        turn = f'{{"role": "assistant", "content": [{{"type": "tool_use", "name": "f", "input": {{"a": {nested}}}}}]}}'
        try:
            read_all("/v1/messages", f'{{"model": "m", "messages": [{turn}]}}')
        except InvalidRequest:
            refused.append(depth)
    assert refused == list(range(refused[0], 1100))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/chat/completions", (5, "left", "s")),
        ("/v1/completions", (5, "left", "s")),
        ("/v1/embeddings", (5, "left", "s")),
        ("/pooling", (5, "left", "s")),
        ("/v1/responses", (None, None, "s")),
        ("/v1/messages", (None, None, "s")),
        ("/tokenize", (None, None, "s")),
    ],
)
def test_truncation_is_read_where_the_engine_reads_it(path: str, expected: tuple[int | None, str | None, str]) -> None:
    fields = {"truncate_prompt_tokens": 5, "truncation_side": "left", "cache_salt": "s"}
    body = read(path, smallest(path) | fields)
    assert (body.truncate_prompt_tokens, body.truncation_side, body.cache_salt) == expected
