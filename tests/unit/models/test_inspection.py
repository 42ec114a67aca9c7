"""What becomes of a prompt, step by step, as people are shown it."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from extproc.errors import InvalidRequest
from extproc.models.inspection import Inspection, inspect, read_body
from extproc.models.model import Model
from tests.support.readers import CHAT, Reading, make_spec
from tests.support.stores import make_segment, open_store

COMPLETIONS = "/v1/completions"
HELLO = [{"role": "user", "content": "Hello, world!"}]
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/1.png"}}


def make(directory: Path, kind: str = "qwen", *, cached: bool = True) -> Model:
    store = open_store(make_segment()) if cached else None
    shelved = Reading(make_spec(directory, kind, block_size=4), store=store).shelf.find(kind)
    assert shelved is not None
    assert shelved.model is not None
    return shelved.model


def look(model: Model, path: str = CHAT, *, adapter: str = "", **fields: Any) -> list[Inspection]:  # noqa: ANN401
    return inspect(model, adapter, read_body(path, json.dumps({"model": "m", **fields}).encode()))


def test_shows_text_ids_and_blocks_of_a_chat(tmp_path: Path) -> None:
    model = make(tmp_path)
    (seen,) = look(model, messages=HELLO)
    assert seen.text is not None
    assert seen.text.endswith("<|im_start|>user\nHello, world!<|im_end|>\n<|im_start|>assistant\n")
    tokenizer = Tokenizer.from_file(str(tmp_path / "qwen" / "tokenizer.json"))
    assert seen.tokens == tokenizer.encode(seen.text, add_special_tokens=False).ids
    assert (seen.count, seen.block_size, seen.blocks) == (len(seen.tokens), 4, len(seen.tokens) // 4)
    assert (seen.model, seen.adapter, seen.encoder, seen.exact) == ("qwen", "", "fastokens", True)


def test_boundaries_are_where_the_text_may_be_cut(tmp_path: Path) -> None:
    model = make(tmp_path)
    (seen,) = look(model, messages=HELLO)
    assert seen.text is not None
    data = seen.text.encode()
    assert [cut.after for cut in seen.boundaries] == ["<|im_start|>", "<|im_end|>"] * 2 + ["<|im_start|>"]
    tokenizer = Tokenizer.from_file(str(tmp_path / "qwen" / "tokenizer.json"))
    for cut in seen.boundaries:
        before = data[: cut.bytes].decode()
        assert before.endswith(cut.after)
        assert tokenizer.encode(before, add_special_tokens=False).ids == seen.tokens[: cut.tokens]


def test_goes_through_the_cache_as_a_router_does(tmp_path: Path) -> None:
    model = make(tmp_path)
    (first,), (again,) = look(model, messages=HELLO), look(model, messages=HELLO)
    (longer,) = look(model, messages=[*HELLO, {"role": "assistant", "content": "Hi!"}, *HELLO])
    (adapter,) = look(model, messages=HELLO, adapter="lora")
    assert [seen.cache for seen in (first, again, longer, adapter)] == ["miss", "level_0", "level_1", "miss"]
    assert (again.text, again.tokens, again.boundaries) == (first.text, first.tokens, first.boundaries)
    assert again.text is not None
    assert (again.reused_bytes, again.reused_tokens) == (len(again.text.encode()), again.count)
    assert 0 < longer.reused_tokens < longer.count
    assert (adapter.adapter, adapter.tokens) == ("lora", first.tokens)
    assert again.seconds.recall > 0
    assert (again.seconds.prepare, again.seconds.encode, again.seconds.finish) == (0, 0, 0)
    assert min(first.seconds.prepare, first.seconds.encode, first.seconds.finish) > 0


def test_without_a_cache_there_is_nothing_to_cut(tmp_path: Path) -> None:
    model = make(tmp_path, cached=False)
    (seen,) = look(model, messages=HELLO)
    assert (seen.cache, seen.boundaries) == ("off", [])


def test_every_text_is_shown_with_its_own_ids(tmp_path: Path) -> None:
    seen = look(make(tmp_path), COMPLETIONS, prompt=["Hello", "world"])
    assert [one.text for one in seen] == ["Hello", "world"]
    assert seen[0].tokens != seen[1].tokens


def test_ids_from_the_client_have_no_text(tmp_path: Path) -> None:
    (seen,) = look(make(tmp_path), COMPLETIONS, prompt=[1, 2, 3, 4, 5])
    assert (seen.text, seen.tokens, seen.cache, seen.blocks, seen.boundaries) == (None, [1, 2, 3, 4, 5], "given", 1, [])


def test_a_prompt_is_shown_as_cut(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"messages": HELLO, "truncate_prompt_tokens": 5, "truncation_side": "right"}
    model = make(tmp_path)
    (whole,), (cut,) = look(model, messages=HELLO), look(model, **fields)
    assert (cut.tokens, cut.count, cut.blocks) == (whole.tokens[:5], 5, 1)


def test_media_make_it_inexact(tmp_path: Path) -> None:
    (seen,) = look(make(tmp_path), messages=[{"role": "user", "content": [IMAGE]}])
    assert not seen.exact


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        (COMPLETIONS, {}, "no prompt that can be tokenized"),
        ("/tokenize", {}, "no prompt that can be tokenized"),
        (CHAT, {}, "missing required field `messages`"),
        (CHAT, {"messages": []}, "no message"),
        (CHAT, {"messages": HELLO, "chat_template": "x"}, "trust_request_chat_template"),
        ("/v1/nothing", {}, "/v1/nothing is none of /v1/chat/completions, "),
    ],
)
def test_what_is_no_prompt_is_refused(path: str, fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=message):
        look(make(tmp_path), path, **fields)


def test_a_body_that_is_no_json_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="not valid JSON"):
        read_body(CHAT, b"{")


def test_boundaries_of_a_text_are_shown_beside_a_bos(tmp_path: Path) -> None:
    model = make(tmp_path, "llama3")
    (seen,) = look(model, COMPLETIONS, prompt="a<|eot_id|>b")
    assert [(cut.bytes, cut.after) for cut in seen.boundaries] == [(11, "<|eot_id|>")]
    assert seen.tokens[seen.boundaries[0].tokens - 1] == seen.tokens[-2]
