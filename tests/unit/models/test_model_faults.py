"""Models whose files are missing, broken or of the wrong kind: which file is at fault is said."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from extproc.config.models import ModelSpec
from extproc.errors import ModelUnusable
from extproc.models.model import load_model
from tests.support.models import BROKEN_KINDS, make_model
from tests.support.stores import make_segment, open_store


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("broken_missing", "tokenizer.json"),
        ("broken_truncated", "tokenizer.json"),
        ("broken_template", "chat template `default`"),
        ("broken_special", "tokenizer_config.json"),
        ("broken_ids", "tokenizer_config.json"),
    ],
)
def test_a_model_that_cannot_be_used_says_which_file_is_at_fault(kind: str, file: str, tmp_path: Path) -> None:
    assert kind in BROKEN_KINDS
    with pytest.raises(ModelUnusable) as unusable:
        load_model(ModelSpec(name="m"), source=make_model(tmp_path / kind, kind), wanted="tokenizers", store=None)
    assert str(tmp_path / kind) in str(unusable.value)
    assert file in str(unusable.value)


def configures(**values: Any) -> Callable[[Path], None]:  # noqa: ANN401
    def edit(directory: Path) -> None:
        path = directory / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return edit


def cannot_encode(directory: Path) -> None:
    vocabulary = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    added = [{"id": 1, "content": "<|im_start|>", "special": True, **flags}]
    (directory / "tokenizer.json").write_text(
        json.dumps({"version": "1.0", "added_tokens": added, "model": vocabulary})
    )
    (directory / "tokenizer_config.json").write_text("{}")


def wrong_added_tokens(directory: Path) -> None:
    configures(added_tokens_decoder=None)(directory)
    (directory / "added_tokens.json").write_text('{"<x>": null}')


@pytest.mark.parametrize(
    ("edit", "file"),
    [
        (configures(added_tokens_decoder={"4000": {"content": "x", "special": "yes"}}), "tokenizer_config.json"),
        (configures(added_tokens_decoder={"x": {"content": "x"}}), "tokenizer_config.json"),
        (configures(added_tokens_decoder={"1": {}}), "tokenizer_config.json"),
        (wrong_added_tokens, "tokenizer_config.json"),
        (cannot_encode, "tokenizer.json"),
    ],
    ids=["a flag that is none", "an id that is none", "no content", "null for an id", "fails at texts"],
)
def test_values_of_a_wrong_kind_are_a_fault_of_their_file(
    edit: Callable[[Path], None], file: str, tmp_path: Path
) -> None:
    edit(make_model(tmp_path / "qwen", "qwen"))
    with pytest.raises(ModelUnusable) as unusable:
        load_model(ModelSpec(name="m"), source=tmp_path / "qwen", wanted="tokenizers", store=open_store(make_segment()))
    assert str(unusable.value).startswith(f"{tmp_path / 'qwen' / file}: ")
