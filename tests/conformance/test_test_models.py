"""The model directories that tests use, against the libraries that engines read them with.

``transformers`` must load every good kind and give the ids of its ``tokenizer.json``; what `fastokens` makes of each is
written down in :data:`FASTOKENS`, so that a new release of either shows.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import fastokens
import jinja2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from tests.support.models import BROKEN_KINDS, GOOD_KINDS, KINDS, added_tokens, conversations, make_model, random_texts

ROOT = Path(__file__).resolve().parents[2]
TEXTS = 300

FASTOKENS: Mapping[str, Literal["same ids", "cannot load", "no tokenizer.json"]] = {
    "llama3": "same ids",
    "qwen": "same ids",
    "qwen3": "same ids",
    "deepseek": "same ids",
    "mistral_metaspace": "cannot load",
    "metaspace_always": "cannot load",
    "llama2_legacy": "same ids",
    "gemma": "same ids",
    "wordpiece": "cannot load",
    "unigram": "cannot load",
    "added_lstrip": "same ids",
    "added_rstrip": "same ids",
    "overlapping": "same ids",
    "prefix_space": "same ids",
    "normalized_special": "same ids",
    "tiktoken": "no tokenizer.json",
}
WITH_TOOLS = ("llama3", "qwen", "qwen3", "deepseek", "mistral_metaspace")
HASH_ALL = """
import hashlib, pathlib, sys
from tests.support.models import KINDS, make_model
root = pathlib.Path(sys.argv[1])
for kind in KINDS:
    for path in sorted(make_model(root / kind, kind).iterdir()):
        print(kind, path.name, hashlib.sha256(path.read_bytes()).hexdigest())
"""

unhurried = settings(deadline=None, max_examples=20, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: make_model(root / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def loaded(models: Mapping[str, Path]) -> dict[str, Any]:
    """Tokenizers by kind, as far as they have been asked for."""
    return {}


def load(kind: str, models: Mapping[str, Path], loaded: dict[str, Any]) -> Any:  # noqa: ANN401 - it has no types
    if kind == "tiktoken":
        pytest.importorskip("tiktoken", reason="transformers reads tiktoken files with the tiktoken package")
    if kind not in loaded:
        loaded[kind] = AutoTokenizer.from_pretrained(models[kind])
    return loaded[kind]


def test_every_good_kind_has_a_verdict() -> None:
    assert set(FASTOKENS) == set(GOOD_KINDS)


@pytest.mark.parametrize("kind", GOOD_KINDS)
def test_transformers_gives_the_ids_of_the_file(kind: str, models: Mapping[str, Path], loaded: dict[str, Any]) -> None:
    theirs = load(kind, models, loaded)
    if kind == "tiktoken":
        config = json.loads((models[kind] / "tokenizer_config.json").read_text())
        for number, token in config["added_tokens_decoder"].items():
            assert theirs.encode(f"a{token['content']}b")[1] == int(number)
        return
    file = Tokenizer.from_file(str(models[kind] / "tokenizer.json"))
    for text in ("", *random_texts(added_tokens(models[kind]), count=TEXTS)):
        for special in (False, True):
            expected = file.encode(text, add_special_tokens=special).ids
            assert theirs.encode(text, add_special_tokens=special) == expected, ascii(text)


@pytest.mark.parametrize("kind", [kind for kind, verdict in FASTOKENS.items() if verdict == "same ids"])
def test_fastokens_gives_the_same_ids(kind: str, models: Mapping[str, Path]) -> None:
    path = str(models[kind] / "tokenizer.json")
    reference, fast = Tokenizer.from_file(path), fastokens.Tokenizer.from_file(path)
    for text in random_texts(added_tokens(models[kind]), count=TEXTS, seed=2):
        found = np.frombuffer(fast.encode_batch_flat([text])[0], dtype=np.uint32).tolist()
        assert found == reference.encode(text, add_special_tokens=False).ids, ascii(text)


@pytest.mark.parametrize("kind", [kind for kind, verdict in FASTOKENS.items() if verdict == "cannot load"])
def test_fastokens_refuses_what_it_does_not_know(kind: str, models: Mapping[str, Path]) -> None:
    with pytest.raises(ValueError, match="unsupported"):
        fastokens.Tokenizer.from_file(str(models[kind] / "tokenizer.json"))


@pytest.mark.parametrize("kind", GOOD_KINDS)
def test_any_conversation_can_be_rendered_and_encoded(
    kind: str, models: Mapping[str, Path], loaded: dict[str, Any]
) -> None:
    theirs = load(kind, models, loaded)

    @unhurried
    @given(conversations(added_tokens(models[kind]), tools=kind in WITH_TOOLS, parts=kind == "gemma"), st.booleans())
    def check(messages: list[dict[str, Any]], generate: bool) -> None:
        text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)
        assert isinstance(text, str)
        ids = theirs.apply_chat_template(messages, add_generation_prompt=generate, return_dict=False)
        assert ids == theirs.encode(text, add_special_tokens=False)

    check()


def test_names_of_files_and_special_tokens_are_those_of_the_hub(models: Mapping[str, Path]) -> None:
    config = json.loads((models["llama3"] / "tokenizer_config.json").read_text())
    entries = json.loads((models["llama3"] / "tokenizer.json").read_text())["added_tokens"]
    declared = {int(number): token["content"] for number, token in config["added_tokens_decoder"].items()}
    assert declared == {entry["id"]: entry["content"] for entry in entries}
    assert {config["bos_token"], config["eos_token"], config["pad_token"]} <= set(declared.values())
    assert {path.name for path in models["tiktoken"].iterdir()} == {
        "generation_config.json",
        "tiktoken.model",
        "tokenizer_config.json",
    }


@pytest.mark.parametrize("kind", ["broken_missing", "broken_truncated"])
def test_transformers_does_not_load_what_is_not_there(kind: str, models: Mapping[str, Path]) -> None:
    with pytest.raises(Exception, match=r"Couldn't instantiate|EOF"):
        AutoTokenizer.from_pretrained(models[kind])


def test_a_broken_template_fails_when_it_is_used(models: Mapping[str, Path]) -> None:
    theirs = AutoTokenizer.from_pretrained(models["broken_template"])
    with pytest.raises(jinja2.TemplateSyntaxError):
        theirs.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)


def test_transformers_adds_a_special_token_that_the_vocabulary_lacks(models: Mapping[str, Path]) -> None:
    theirs = AutoTokenizer.from_pretrained(models["broken_special"])
    size = Tokenizer.from_file(str(models["broken_special"] / "tokenizer.json")).get_vocab_size()
    assert theirs.encode("<|nowhere|>") == [size]


def test_transformers_keeps_the_ids_of_the_vocabulary(models: Mapping[str, Path]) -> None:
    theirs = AutoTokenizer.from_pretrained(models["broken_ids"])
    file = Tokenizer.from_file(str(models["broken_ids"] / "tokenizer.json"))
    config = json.loads((models["broken_ids"] / "tokenizer_config.json").read_text())
    (declared,) = (int(n) for n, t in config["added_tokens_decoder"].items() if t["content"] == "<|im_start|>")
    assert theirs.encode("<|im_start|>") == [file.token_to_id("<|im_start|>")] != [declared]


def test_another_process_writes_the_same_files(models: Mapping[str, Path], tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "5", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-c", HASH_ALL, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:-1] == [
        f"{kind} {path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        for kind in (*GOOD_KINDS, *BROKEN_KINDS)
        for path in sorted(models[kind].iterdir())
    ]
