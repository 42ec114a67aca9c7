"""Which encoder a tokenizer gets, and why not the fast one."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from tokenizers import Tokenizer, models

from extproc.config.models import ModelSpec
from extproc.models.model import load_model
from extproc.tokens.backend import Reason, choose_backend
from extproc.tokens.encoder import FastEncoder
from extproc.tokens.tokenizer_file import TokenizerFile, build
from tests.support import tokenizers_for_tests as trained
from tests.support.models import GOOD_KINDS, make_model

UNSUPPORTED = ("mistral_metaspace", "metaspace_always", "wordpiece", "unigram")
REASONS: Mapping[str, Reason] = MappingProxyType(
    {kind: "unsupported" if kind in UNSUPPORTED else "" for kind in GOOD_KINDS}
)


def file_of(tokenizer: Tokenizer) -> TokenizerFile:
    return build(tokenizer, config={}, special_tokens={}, added_tokens={})


def without_pre_tokenizer() -> Tokenizer:
    """A byte-level vocabulary whose bytes are never spelled: the libraries treat what is not ASCII differently."""
    document = json.loads(trained.qwen().to_str())
    return Tokenizer.from_str(json.dumps({**document, "pre_tokenizer": None}))


@pytest.mark.parametrize("kind", GOOD_KINDS)
def test_the_backend_of_a_kind_and_its_reason(kind: str, tmp_path: Path) -> None:
    directory = make_model(tmp_path, kind)
    model = load_model(ModelSpec(name=kind, source=str(directory)), source=directory, wanted="auto", store=None)
    name = "tokenizers" if REASONS[kind] else "fastokens"
    assert (model.backend.encoder.name, model.backend.reason) == (name, REASONS[kind])


def test_a_tokenizer_on_which_the_libraries_differ_gets_the_reference() -> None:
    file = file_of(without_pre_tokenizer())
    FastEncoder(file.reference.to_str())  # it can be loaded
    backend = choose_backend(file, "auto")
    assert (backend.encoder.name, backend.reason) == ("tokenizers", "differs")


def test_the_reference_is_used_where_it_is_asked_for() -> None:
    backend = choose_backend(file_of(trained.qwen()), "tokenizers")
    assert (backend.encoder.name, backend.reason) == ("tokenizers", "configured")


def test_a_tokenizer_that_splits_special_tokens_gets_an_encoder_that_does() -> None:
    file = build(trained.qwen(), config={"split_special_tokens": True}, special_tokens={}, added_tokens={})
    backend = choose_backend(file, "auto")
    assert backend.encoder.encode("<|im_end|>").tolist() == file.reference.encode("<|im_end|>").ids
    assert len(backend.encoder.encode("<|im_end|>")) > 1


def test_a_reference_that_fails_at_the_trials_is_a_value_error() -> None:
    letters = Tokenizer(models.BPE(vocab={"a": 0}, merges=[], unk_token="<unk>"))
    with pytest.raises(ValueError, match="tokenizers cannot encode it"):
        choose_backend(file_of(letters), "auto")
