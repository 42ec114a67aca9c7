"""The files of a model: which are read, which of several counts, what is said of those that cannot be."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from extproc.config.models import ModelSpec
from extproc.errors import ModelUnusable
from extproc.models import files as model_files
from extproc.models.files import read_files, stamp_of

Edit = Callable[[Path], None]
SPEC = ModelSpec(name="m")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    write(path / "tokenizer.json", {"the": "vocabulary"})
    write(path / "tokenizer_config.json", {"bos_token": "<s>"})
    return path


def write(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def writes(name: str, content: object) -> Edit:
    return lambda directory: write(directory / name, content)


def test_every_file_is_read(directory: Path) -> None:
    write(directory / "special_tokens_map.json", {"eos_token": "</s>"})
    write(directory / "added_tokens.json", {"<x>": 7})
    write(directory / "config.json", {"model_type": "mistral"})
    write(directory / "chat_template.jinja", "text of the template")
    files = read_files(directory, SPEC)
    assert files[:-1] == (
        directory / "tokenizer.json",
        b'{"the": "vocabulary"}',
        {"bos_token": "<s>"},
        {"eos_token": "</s>"},
        {"<x>": 7},
        "mistral",
        {"default": "text of the template"},
    )


def test_all_but_the_vocabulary_may_be_missing(tmp_path: Path) -> None:
    write(tmp_path / "tokenizer.json", {})
    assert read_files(tmp_path, SPEC)[1:-1] == (b"{}", {}, {}, {}, "", {})


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("tokenizer.json", "qwen.tiktoken"), "tokenizer.json"),
        (("qwen.tiktoken",), "qwen.tiktoken"),
        (("tiktoken.model",), "tiktoken.model"),
    ],
)
def test_the_vocabulary_is_a_tokenizer_json_or_else_a_tiktoken_file(
    names: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
    assert read_files(tmp_path, SPEC).tokenizer == tmp_path / expected


def test_a_file_as_the_source_has_its_neighbours_read(directory: Path) -> None:
    (directory / "tokenizer.json").rename(directory / "other.json")
    files = read_files(directory / "other.json", SPEC)
    assert (files.tokenizer.name, files.config) == ("other.json", {"bos_token": "<s>"})


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, {}),
        ({"tokenizer_config.json": {"chat_template": "in config"}}, {"default": "in config"}),
        (
            {"tokenizer_config.json": {"chat_template": [{"name": "default", "template": "a"}, {"name": "tool_use",
             "template": "b"}]}},
            {"default": "a", "tool_use": "b"},
        ),
        ({"chat_template.json": {"chat_template": "legacy"}}, {"default": "legacy"}),
        (
            {"chat_template.json": {"chat_template": "legacy"}, "tokenizer_config.json": {"chat_template": "config"}},
            {"default": "config"},
        ),
        (
            {"chat_template.jinja": "file", "tokenizer_config.json": {"chat_template": "config"}},
            {"default": "file"},
        ),
        (
            {"chat_template.jinja": "file", "additional_chat_templates/tool_use.jinja": "tools"},
            {"default": "file", "tool_use": "tools"},
        ),
        ({"additional_chat_templates/rag.jinja": "rag"}, {"rag": "rag"}),
    ],
    ids=["none", "config", "named", "legacy", "config before legacy", "file before config", "additional", "others"],
)  # fmt: skip
def test_templates_are_taken_from_files_first_then_from_the_configuration(
    files: dict[str, Any], expected: dict[str, str], directory: Path
) -> None:
    for name, content in files.items():
        write(directory / name, content)
    assert read_files(directory, SPEC).templates == expected


def test_a_configured_template_takes_the_place_of_all_others(directory: Path, tmp_path: Path) -> None:
    write(directory / "chat_template.jinja", "own")
    write(directory / "additional_chat_templates/tool_use.jinja", "tools")
    (tmp_path / "other.jinja").write_text("configured")
    spec = ModelSpec(name="m", chat_template_file=str(tmp_path / "other.jinja"))
    assert read_files(directory, spec).templates == {"default": "configured"}


CONTENT: list[Edit] = [
    writes("tokenizer.json", {"other": "vocabulary"}),
    writes("tokenizer_config.json", {"bos_token": "<t>"}),
    writes("special_tokens_map.json", {"eos_token": "</s>"}),
    writes("added_tokens.json", {"<x>": 7}),
    writes("config.json", {"model_type": "phi3"}),
    writes("chat_template.jinja", "template"),
    writes("additional_chat_templates/tool_use.jinja", "template"),
]
CONTENT_IDS = ["vocabulary", "config", "special tokens", "added tokens", "model type", "template", "tool template"]


@pytest.mark.parametrize("edit", CONTENT, ids=CONTENT_IDS)
def test_other_content_is_another_revision(edit: Edit, directory: Path) -> None:
    before = read_files(directory, SPEC).revision
    edit(directory)
    assert read_files(directory, SPEC).revision != before


def test_equal_content_is_one_revision_wherever_it_is(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    for path in directory.iterdir():
        (tmp_path / "copy" / path.name).write_bytes(path.read_bytes())
    write(tmp_path / "copy" / "generation_config.json", {"temperature": 0.5})
    assert read_files(tmp_path / "copy", SPEC).revision == read_files(directory, SPEC).revision


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("tokenizer_config.json", b"{", "not valid JSON"),
        ("tokenizer_config.json", b"\xff", "not valid JSON"),
        ("tokenizer_config.json", b"[" * 100_000, "not valid JSON"),
        ("tokenizer_config.json", b"[]", "must be a JSON object"),
        ("special_tokens_map.json", b"3", "must be a JSON object"),
        ("added_tokens.json", b"{]", "not valid JSON"),
        ("config.json", b"nonsense", "not valid JSON"),
        ("generation_config.json", b"", "not valid JSON"),
        ("chat_template.json", b"[]", "must be a JSON object"),
        ("chat_template.jinja", b"a\xff", "not UTF-8 text"),
        ("additional_chat_templates/x.jinja", b"\xff", "not UTF-8 text"),
        ("tokenizer_config.json", b'{"chat_template": [1]}', "neither text nor a list of names and templates"),
        ("tokenizer_config.json", b'{"chat_template": [{"name": "x"}]}', "neither text nor a list"),
        ("tokenizer_config.json", b'{"chat_template": 5}', "neither text nor a list"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(name: str, content: bytes, problem: str, directory: Path) -> None:
    (directory / name).parent.mkdir(exist_ok=True)
    (directory / name).write_bytes(content)
    with pytest.raises(ModelUnusable) as unusable:
        read_files(directory, SPEC)
    assert str(unusable.value).startswith(f"{directory / name}: ")
    assert problem in str(unusable.value)


def test_a_directory_without_a_vocabulary_says_what_is_missing(tmp_path: Path) -> None:
    write(tmp_path / "tokenizer_config.json", {})
    with pytest.raises(ModelUnusable, match=r"tokenizer\.json: is missing, and there is no tiktoken file") as unusable:
        read_files(tmp_path, SPEC)
    assert str(tmp_path) in str(unusable.value)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_text("")
    with pytest.raises(ModelUnusable, match=r"weights\.bin: neither a `\.json` nor a tiktoken file"):
        read_files(tmp_path / "weights.bin", SPEC)


def test_what_is_neither_a_file_nor_a_directory_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelUnusable, match="pipe: cannot be read: Not a directory"):
        read_files(tmp_path / "pipe", SPEC)


def test_a_configured_template_that_is_gone_is_named(directory: Path, tmp_path: Path) -> None:
    spec = ModelSpec(name="m", chat_template_file=str(tmp_path / "gone.jinja"))
    with pytest.raises(ModelUnusable, match=r"gone\.jinja: cannot be read: No such file"):
        read_files(directory, spec)


def test_a_file_that_is_too_large_is_not_read_whole(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "MAX_FILE_BYTES", 30)
    assert read_files(directory, SPEC).vocabulary
    write(directory / "tokenizer.json", "x" * 31)
    with pytest.raises(ModelUnusable, match=r"tokenizer\.json: larger than 30 bytes"):
        read_files(directory, SPEC)


@pytest.mark.parametrize("edit", CONTENT, ids=CONTENT_IDS)
def test_the_stamp_changes_with_every_file_that_counts(edit: Edit, directory: Path) -> None:
    before = stamp_of(directory, SPEC)
    assert stamp_of(directory, SPEC) == before
    edit(directory)
    assert stamp_of(directory, SPEC) != before


@pytest.mark.parametrize("source", ["", "tokenizer.json"])
def test_the_stamp_tells_a_file_that_is_replaced_by_one_alike(source: str, directory: Path) -> None:
    before = stamp_of(directory / source, SPEC)
    path = directory / "tokenizer_config.json"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    (directory / "new").write_bytes(path.read_bytes())
    os.utime(directory / "new", ns=times)
    (directory / "new").replace(path)
    assert stamp_of(directory / source, SPEC) != before


def test_the_stamp_tells_a_file_that_goes(directory: Path) -> None:
    before = stamp_of(directory, SPEC)
    (directory / "tokenizer_config.json").unlink()
    assert stamp_of(directory, SPEC) != before


def test_the_stamp_takes_no_notice_of_other_files(directory: Path) -> None:
    before = stamp_of(directory, SPEC)
    write(directory / "model.safetensors", "weights")
    write(directory / "README.md", "words")
    assert stamp_of(directory, SPEC) == before


def test_the_stamp_has_a_configured_template_in_it(directory: Path, tmp_path: Path) -> None:
    template = tmp_path / "template.txt"
    spec = ModelSpec(name="m", chat_template_file=str(template))
    before = stamp_of(directory, spec)
    template.write_text("one")
    first = stamp_of(directory, spec)
    template.write_text("another")
    assert len({before, first, stamp_of(directory, spec)}) == 3


def test_the_stamp_of_nothing_is_empty(tmp_path: Path) -> None:
    assert stamp_of(tmp_path / "gone", SPEC) == ()
