"""Every recognised body: what is read, what is refused, and which field a refusal names."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.api.body import RequestBody, decode
from extproc.api.paths import DECODERS, decoder_for
from extproc.errors import InvalidRequest

VALID: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [
        {"messages": [{"role": "user", "content": "hi"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}, "there", {"type": "image_url"}]}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}, {"role": "tool"}]},
        {"messages": [], "stream": True, "tools": [{"anything": 1}]},
    ],
    "/v1/completions": [{"prompt": "a"}, {"prompt": ["a", "b"]}, {"prompt": [1, 2]}, {"prompt": [[1], [2, 3]]}, {}],
    "/v1/embeddings": [{"input": "a"}, {"input": ["a"]}, {"input": [1]}, {"messages": [{"role": "user"}]}],
    "/v1/responses": [{"input": "a"}, {"input": [{"role": "user", "content": "a"}], "instructions": "be kind"}],
    "/v1/messages": [
        {"messages": [{"role": "user", "content": "a"}], "system": "s", "max_tokens": 5},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "system": [{"type": "text"}]},
    ],
    "/tokenize": [{"prompt": "a"}, {"messages": [{"role": "user", "content": "a"}]}],
    "/v1/rerank": [{"query": "q", "documents": ["a", {"text": "b"}]}],
    "/score": [{"text_1": "a", "text_2": ["b"]}, {"query": "a", "documents": ["b"]}],
    "/pooling": [{"input": "a"}, {"data": {"any": 1}}],
}

WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/chat/completions", {"messages": "hi"}, "messages"),
    ("/v1/chat/completions", {"messages": [{"content": "no role"}]}, "messages"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": 5}]}, "messages"),
    ("/v1/chat/completions", {}, "messages"),
    ("/v1/chat/completions", {"messages": [], "stream": "yes"}, "stream"),
    ("/v1/completions", {"prompt": 5}, "prompt"),
    ("/v1/completions", {"prompt": [1.5]}, "prompt"),
    ("/v1/embeddings", {"input": {}}, "input"),
    ("/v1/responses", {"input": 1}, "input"),
    ("/v1/messages", {"messages": {"role": "user"}}, "messages"),
    ("/tokenize", {"prompt": ["a"]}, "prompt"),
    ("/v1/rerank", {"query": 3}, "query"),
]


def read(path: str, body: bytes) -> Any:  # noqa: ANN401
    decoder = decoder_for("POST", path)
    assert decoder is not None
    parsed = decode(decoder, body)
    parsed.validate()
    return parsed


def test_every_recognised_path_has_a_valid_case() -> None:
    assert set(VALID) == set(DECODERS)


@pytest.mark.parametrize(("path", "fields"), [(path, case) for path, cases in VALID.items() for case in cases])
def test_valid_bodies_are_read(path: str, fields: dict[str, Any]) -> None:
    body = read(path, json.dumps({"model": "tiny", "unknown": {"deep": [1]}, **fields}).encode())
    assert body.model == "tiny"
    assert body.stream == fields.get("stream")


@pytest.mark.parametrize(("path", "fields", "param"), WRONG)
def test_a_wrong_field_is_named(path: str, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(path, json.dumps({"model": "tiny", **fields}).encode())
    assert refused.value.param == param


@pytest.mark.parametrize("path", DECODERS)
@pytest.mark.parametrize("model", [None, 5, ["tiny"], ...], ids=["null", "number", "list", "missing"])
def test_model_must_be_a_string(path: str, model: object) -> None:
    fields = dict(VALID[path][0]) | ({} if model is ... else {"model": model})
    with pytest.raises(InvalidRequest) as refused:
        read(path, json.dumps(fields).encode())
    assert refused.value.param == "model"


@pytest.mark.parametrize("path", DECODERS)
@pytest.mark.parametrize("body", [b"", b"{", b"nonsense", b"[1]", b'"text"', b'{"model": "\xff"}', b"[" * 100_000])
def test_what_is_not_a_json_object_is_refused(path: str, body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read(path, body)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_refused(body: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        assert isinstance(read("/v1/chat/completions", body), RequestBody)


@given(st.text(min_size=12, alphabet=st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF)))
def test_a_refusal_never_quotes_the_prompt(secret: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read("/v1/chat/completions", json.dumps({"model": "m", "messages": secret}, ensure_ascii=False).encode())
    assert secret not in refused.value.message


@pytest.mark.parametrize(
    ("method", "path", "recognised"),
    [
        ("POST", "/v1/chat/completions", True),
        ("POST", "/v1/chat/completions?api-version=1", True),
        ("GET", "/v1/chat/completions", False),
        ("POST", "/v1/audio/transcriptions", False),
        ("POST", "/v1/chat/completions/render", False),
        ("GET", "/v1/models", False),
    ],
)
def test_only_posts_to_known_paths_are_looked_into(method: str, path: str, recognised: bool) -> None:
    assert (decoder_for(method, path) is not None) is recognised
