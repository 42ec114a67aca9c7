"""Tokens for the admin pages: models as they are configured at that moment, over the cache of the routers."""

import json
from pathlib import Path
from typing import Any

import pytest

from extproc.config.models import ModelSpec
from extproc.errors import InvalidRequest, ModelNotFound, NoEndpoint
from extproc.models.shelf import ModelShelf
from extproc.observer.tokens import ObservedTokens
from extproc.shm.segment import Segment
from tests.support.readers import Reading, make_spec
from tests.support.stores import make_segment, open_store

HELLO = [{"role": "user", "content": "Hello, world!"}]


class Bench:
    def __init__(self, *specs: ModelSpec, segment: Segment | None = None) -> None:
        self.specs = list(specs)
        self.store = None if segment is None else open_store(segment)
        self.shelf: ModelShelf = Reading(store=self.store).shelf
        self.tokens = ObservedTokens(shelf=self.shelf, store=self.store, specs=lambda: self.specs)

    def tokenize(self, model: str, **fields: Any) -> list[Any]:  # noqa: ANN401
        return self.tokens.tokenize(json.dumps({"model": model, **fields}).encode())


def test_models_are_loaded_when_one_is_asked_for(tmp_path: Path) -> None:
    bench = Bench(make_spec(tmp_path, "qwen"))
    bench.tokens.caches()
    assert not bench.shelf
    (seen,) = bench.tokenize("qwen", messages=HELLO)
    assert bench.shelf
    assert seen.text.endswith("Hello, world!<|im_end|>\n<|im_start|>assistant\n")
    (seen,) = bench.tokenize("qwen", prompt="Hello, world!")
    assert seen.text == "Hello, world!"


def test_uses_and_fills_the_cache_of_the_routers(tmp_path: Path) -> None:
    segment = make_segment()
    spec = make_spec(tmp_path, "qwen")
    router = Reading(spec, store=open_store(segment))
    bench = Bench(spec, segment=segment)
    (first,) = bench.tokenize("qwen", messages=HELLO)
    assert first.cache == "miss"
    assert router.chat("qwen", HELLO).cache == "level_0"


def test_follows_the_configuration(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, "qwen", aliases=("alias",), lora_adapters=("adapter",))
    bench = Bench()
    with pytest.raises(ModelNotFound) as unknown:
        bench.tokenize("alias", prompt="x")
    assert unknown.value.param == "model"
    bench.specs.append(spec)
    assert [bench.tokenize(name, prompt="x")[0].adapter for name in ("alias", "adapter")] == ["", "adapter"]
    bench.specs.clear()
    with pytest.raises(ModelNotFound):
        bench.tokenize("alias", prompt="x")


def test_a_model_that_cannot_be_loaded_is_unavailable_and_others_are_not(tmp_path: Path) -> None:
    bench = Bench(make_spec(tmp_path, "broken_special"), make_spec(tmp_path, "qwen"))
    with pytest.raises(NoEndpoint):
        bench.tokenize("broken_special", prompt="x")
    assert len(bench.tokenize("qwen", prompt="x")) == 1


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"model": "qwen"}', b'{"model": "qwen", "messages": [1]}'])
def test_a_body_that_is_not_like_vllms_is_refused(body: bytes, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest):
        Bench(make_spec(tmp_path, "qwen")).tokens.tokenize(body)


def test_shows_the_cache_and_the_configured_models(tmp_path: Path) -> None:
    segment = make_segment()
    spec = ModelSpec(name="m", aliases=("a",), lora_adapters=("l",), block_size=32)
    bench = Bench(spec, segment=segment)
    page = bench.tokens.caches()
    listed = {"name": "m", "aliases": ("a",), "lora_adapters": ("l",), "block_size": 32}
    assert page["models"] == [listed]
    assert page["token_cache"]["rows"] == 0
    Reading(make_spec(tmp_path, "qwen"), store=open_store(segment)).chat("qwen", HELLO)
    assert bench.tokens.caches()["token_cache"]["rows"] > 0
    assert bench.store is not None
    assert bench.tokens.store_state() == bench.store.state()


def test_flushing_empties_the_cache_for_everybody(tmp_path: Path) -> None:
    segment = make_segment()
    router = Reading(make_spec(tmp_path, "qwen"), store=open_store(segment))
    router.chat("qwen", HELLO)
    bench = Bench(segment=segment)
    assert bench.tokens.flush() is True
    assert bench.tokens.caches()["token_cache"]["used_bytes"] == 0
    assert [router.chat("qwen", HELLO).cache for _ in range(2)] == ["miss", "level_0"]


def test_without_a_cache_there_is_nothing_to_show_or_empty() -> None:
    bench = Bench()
    assert bench.tokens.caches() == {"token_cache": None, "models": []}
    assert bench.tokens.store_state() is None
    assert bench.tokens.flush() is True


def test_a_changed_template_counts_from_the_next_look_on(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, "qwen")
    tokens = ObservedTokens(shelf=Reading().shelf, store=None, specs=lambda: [spec])
    body = json.dumps({"model": "qwen", "messages": [{"role": "user", "content": "hi"}]}).encode()
    before = tokens.tokenize(body)[0].text
    (tmp_path / "qwen" / "chat_template.jinja").write_text("{{ messages[0].content }}, changed")
    assert before != "hi, changed"
    assert tokens.tokenize(body)[0].text == "hi, changed"
