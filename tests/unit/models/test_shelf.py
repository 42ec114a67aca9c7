"""The shelf of models: found by every name, kept in step with settings and files, each apart from the others."""

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from extproc.config.models import ModelSpec
from extproc.config.tokens import TokensSettings
from extproc.models.model import Model
from extproc.models.shelf import ModelShelf
from extproc.shm.token_store import TokenStore
from extproc.telemetry.metrics import TokenMetrics
from tests.support.models import BROKEN_KINDS, make_model
from tests.support.readers import make_spec
from tests.support.stores import make_segment, open_store

TEMPLATE = "{% for message in messages %}<|im_start|>{{ message.content }}<|im_end|>{% endfor %}"


class Bench:
    """A shelf and its metrics."""

    def __init__(self, *specs: ModelSpec, store: TokenStore | None = None) -> None:
        self.metrics = TokenMetrics()
        self.shelf = ModelShelf(settings=TokensSettings(backend="tokenizers"), store=store, metrics=self.metrics)
        self.update(specs)

    def update(self, specs: Sequence[ModelSpec]) -> None:
        self.shelf.update(specs)

    def model(self, name: str) -> Model | None:
        shelved = self.shelf.find(name)
        assert shelved is not None
        return shelved.model

    def loads(self, name: str) -> int:
        return int(self.metrics.model_loads.labels(name, "tokenizers", "configured")._value.get())

    def failures(self, name: str) -> int:
        return int(self.metrics.model_loads.labels(name, "none", "unusable")._value.get())

    def switched_off(self, name: str, reason: str) -> int:
        return int(self.metrics.prefixes_off.labels(name, reason)._value.get())


def change(spec: ModelSpec, template: str = TEMPLATE) -> None:
    (Path(spec.source) / "chat_template.jinja").write_text(template)


@pytest.fixture
def one(tmp_path: Path) -> ModelSpec:
    return make_spec(tmp_path, "qwen")


@pytest.fixture
def other(tmp_path: Path) -> ModelSpec:
    return make_spec(tmp_path, "llama3")


def test_a_model_goes_by_its_name_its_aliases_and_its_adapters(one: ModelSpec) -> None:
    bench = Bench(replace(one, aliases=("a1", "a2"), lora_adapters=("l1", "l2")))
    found = [bench.shelf.find(name) for name in ("qwen", "a1", "a2", "l1", "l2")]
    assert [shelved and shelved.adapter for shelved in found] == ["", "", "", "l1", "l2"]
    assert len({id(shelved and shelved.model) for shelved in found}) == 1
    assert bench.model("qwen") is not None
    assert bench.shelf.find("unknown") is None


def test_a_shelf_without_models_is_empty(one: ModelSpec) -> None:
    bench = Bench()
    assert not bench.shelf
    bench.update([one])
    assert bench.shelf
    assert bench.shelf.models() == [(one, bench.model("qwen"))]


@pytest.mark.parametrize("kind", BROKEN_KINDS)
def test_a_broken_model_is_known_by_name_and_leaves_the_others_usable(
    kind: str, one: ModelSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(make_spec(tmp_path, kind), one)
    assert bench.model(kind) is None
    assert bench.model("qwen") is not None
    assert (bench.failures(kind), bench.loads("qwen")) == (1, 1)
    (message,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert message.startswith(f"Model {kind} cannot be loaded, its requests are routed without tokens: {tmp_path}")


def with_wrong_flag(directory: Path) -> str:
    path = make_model(directory / "wrong", "qwen") / "tokenizer_config.json"
    path.write_text(json.dumps({"added_tokens_decoder": {"4000": {"content": "x", "special": "yes"}}}))
    return str(path.parent)


def nested_deeply(directory: Path) -> str:
    path = make_model(directory / "deep", "qwen") / "config.json"
    path.write_text("[" * 100_000)
    return str(path.parent)


@pytest.mark.parametrize(
    "source",
    [lambda _: "/dev/null", lambda _: "x" * 5000, lambda _: "~nobody-at-all/x", with_wrong_flag, nested_deeply],
    ids=["a device", "too long", "nobody's home", "a wrong flag", "nested deeply"],
)
def test_a_source_that_nobody_thought_of_leaves_the_others_usable(
    source: Callable[[Path], str], one: ModelSpec, tmp_path: Path
) -> None:
    bench = Bench(ModelSpec(name="odd", source=source(tmp_path)), one)
    assert bench.model("odd") is None
    assert bench.failures("odd") == 1
    assert bench.model("qwen") is not None


def test_changed_files_are_loaded_once_two_looks_agree_and_other_models_stay(one: ModelSpec, other: ModelSpec) -> None:
    bench = Bench(one, other)
    before, untouched = bench.model("qwen"), bench.model("llama3")
    change(one, "{{ messages }}")
    bench.update([one, other])
    assert bench.model("qwen") is before
    change(one, TEMPLATE)
    bench.update([one, other])
    assert bench.model("qwen") is before
    bench.update([one, other])
    after = bench.model("qwen")
    assert after is not None
    assert after is not before
    assert after.templates.select(tools=False).variables == {"messages"}
    assert bench.model("llama3") is untouched
    for _ in range(3):
        bench.update([one, other])
    assert bench.model("qwen") is after
    assert (bench.loads("qwen"), bench.loads("llama3")) == (2, 1)


def test_a_change_that_is_taken_back_loads_nothing(one: ModelSpec) -> None:
    bench = Bench(one)
    before = bench.model("qwen")
    extra = Path(one.source) / "added_tokens.json"
    for content in ("{}", None, None):
        extra.unlink() if content is None and extra.exists() else extra.write_text("{}") if content else None
        bench.update([one])
    assert bench.model("qwen") is before
    assert bench.loads("qwen") == 1


def test_changed_settings_are_loaded_at_once(one: ModelSpec, other: ModelSpec) -> None:
    bench = Bench(one, other)
    before, untouched = bench.model("qwen"), bench.model("llama3")
    bench.update([replace(one, block_size=32, aliases=("q",)), other])
    after = bench.model("q")
    assert after is not before
    assert after is not None
    assert after.spec.block_size == 32
    assert bench.model("llama3") is untouched


def test_a_model_whose_new_files_are_broken_stays_as_it_is_until_they_are_repaired(
    one: ModelSpec, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(one)
    before = bench.model("qwen")
    change(one, "{% broken")
    for _ in range(5):
        bench.update([one])
    assert bench.model("qwen") is before
    assert bench.failures("qwen") == 1
    assert "the one loaded before stays in use" in caplog.text
    change(one)
    for _ in range(2):
        bench.update([one])
    assert bench.model("qwen") not in (None, before)


def test_a_broken_model_is_loaded_when_it_is_repaired(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, "broken_template")
    bench = Bench(spec)
    for _ in range(3):
        bench.update([spec])
    assert bench.failures(spec.name) == 1
    change(spec)
    for _ in range(2):
        bench.update([spec])
    assert bench.model(spec.name) is not None


def test_a_model_that_comes_later_is_loaded_then(tmp_path: Path) -> None:
    spec = ModelSpec(name="late", source=str(tmp_path / "qwen"))
    bench = Bench(spec)
    bench.update([spec])
    assert bench.model("late") is None
    make_model(tmp_path / "qwen", "qwen")
    for _ in range(2):
        bench.update([spec])
    assert bench.model("late") is not None
    assert bench.failures("late") == 1


def test_settings_that_name_a_place_where_nothing_is_yet_are_followed(one: ModelSpec, tmp_path: Path) -> None:
    bench = Bench(one)
    before = bench.model("qwen")
    moved = replace(one, source=str(tmp_path / "new"))
    for _ in range(3):
        bench.update([moved])
    assert bench.model("qwen") is before
    assert bench.failures("qwen") == 1
    change(one)
    for _ in range(2):
        bench.update([moved])
    assert bench.model("qwen") is before
    make_model(tmp_path / "new", "qwen")
    for _ in range(2):
        bench.update([moved])
    after = bench.model("qwen")
    assert after not in (None, before)
    assert after is not None
    assert after.spec == moved


@pytest.mark.parametrize("name", ["", "tokenizer.json"])
def test_a_model_whose_files_are_gone_stays_and_is_complained_of_at_most_once(
    name: str, one: ModelSpec, tmp_path: Path
) -> None:
    spec = replace(one, source=str(Path(one.source) / name))
    bench = Bench(spec)
    before = bench.model("qwen")
    if name:
        Path(spec.source).unlink()
    else:
        shutil.rmtree(spec.source)
    for _ in range(6):
        bench.update([spec])
    assert bench.model("qwen") is before
    assert bench.failures("qwen") <= 1
    make_model(tmp_path / "qwen", "qwen")
    for _ in range(3):
        bench.update([spec])
    assert bench.model("qwen") not in (None, before)


def test_a_model_that_is_no_longer_configured_is_gone(one: ModelSpec, other: ModelSpec) -> None:
    named = replace(one, aliases=("a",), lora_adapters=("l",))
    bench = Bench(named, other)
    untouched = bench.model("llama3")
    bench.update([other])
    assert [bench.shelf.find(name) for name in ("qwen", "a", "l")] == [None] * 3
    assert bench.model("llama3") is untouched
    bench.update([named, other])
    assert bench.model("a") is not None


def test_names_that_are_taken_away_are_gone(one: ModelSpec) -> None:
    bench = Bench(replace(one, aliases=("a",), lora_adapters=("l",)))
    bench.update([one])
    assert [bench.shelf.find(name) for name in ("a", "l")] == [None, None]
    assert bench.model("qwen") is not None


def test_prefixes_that_proved_wrong_are_off_in_every_process(
    one: ModelSpec, other: ModelSpec, caplog: pytest.LogCaptureFixture
) -> None:
    segment = make_segment()
    first, second = (Bench(one, other, store=open_store(segment)) for _ in range(2))
    model = first.model("qwen")
    assert model is not None
    first.shelf.revoke(model)
    first.shelf.revoke(model)
    assert not model.uses_prefixes
    assert first.switched_off("qwen", "mismatch") == 1
    unaware = second.model("qwen")
    assert unaware is not None
    assert unaware.uses_prefixes
    for _ in range(2):
        second.update([one, other])
    assert not unaware.uses_prefixes
    assert second.model("qwen") is unaware
    assert second.switched_off("qwen", "mismatch") == 1
    for bench in (first, second):
        untouched = bench.model("llama3")
        assert untouched is not None
        assert untouched.uses_prefixes
    assert "Model qwen: a prefix gave other ids than the whole prompt; prefixes are not used" in caplog.messages


def test_a_later_process_does_not_use_what_proved_wrong_but_other_content_does(one: ModelSpec) -> None:
    segment = make_segment()
    first = Bench(one, store=open_store(segment))
    model = first.model("qwen")
    assert model is not None
    first.shelf.revoke(model)
    later = Bench(one, store=open_store(segment)).model("qwen")
    assert later is not None
    assert not later.uses_prefixes
    change(one)
    for _ in range(2):
        first.update([one])
    changed = first.model("qwen")
    assert changed is not None
    assert changed.uses_prefixes


def test_a_model_without_safe_boundaries_is_counted(tmp_path: Path, one: ModelSpec) -> None:
    spec = make_spec(tmp_path, "mistral_metaspace")
    bench = Bench(spec, one, store=open_store(make_segment()))
    assert bench.switched_off("mistral_metaspace", "no_boundary") == 1
    assert bench.switched_off("qwen", "no_boundary") == 0
    assert Bench(spec).switched_off("mistral_metaspace", "no_boundary") == 0


def test_the_encoder_of_a_model_is_counted_with_the_reason_for_a_fall_back(tmp_path: Path, one: ModelSpec) -> None:
    metrics = TokenMetrics()
    ModelShelf(settings=TokensSettings(), store=None, metrics=metrics).update([one, make_spec(tmp_path, "unigram")])
    for labels in (("qwen", "fastokens", ""), ("unigram", "tokenizers", "unsupported")):
        assert metrics.model_loads.labels(*labels)._value.get() == 1


def test_says_what_it_loaded_with_which_encoder(one: ModelSpec, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Bench(one, store=open_store(make_segment()))
    assert f"Loaded model qwen from {one.source}: encoder tokenizers (configured)" in caplog.messages
    assert "<|im_end|>" in caplog.text


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), ValueError("embedded null byte")])
def test_files_that_the_system_refuses_do_not_end_the_others(
    error: Exception, one: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(make_spec(tmp_path / "second", "qwen"), name="other")
    loaded, empty = Bench(one), Bench()
    is_file, is_dir = Path.is_file, Path.is_dir

    def refused(path: Path, ask: Callable[[Path], bool]) -> bool:
        # As for a directory that may not be entered.
        if path.is_relative_to(one.source):
            raise error
        return ask(path)

    monkeypatch.setattr(Path, "is_file", lambda path: refused(path, is_file))
    monkeypatch.setattr(Path, "is_dir", lambda path: refused(path, is_dir))
    for bench in (loaded, empty):
        bench.update([one, other])
        assert bench.model("other") is not None
    assert loaded.model("qwen") is not None
    assert empty.model("qwen") is None
    assert (loaded.failures("qwen"), empty.failures("qwen")) == (0, 1)
