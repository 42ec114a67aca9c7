"""The files of one model, read and checked, each fault with the name of its file.

The layout is that of Hugging Face: ``tokenizer.json`` or a tiktoken file, ``tokenizer_config.json``, chat templates in
``chat_template.jinja``, ``additional_chat_templates/*.jinja`` or the configuration, and ``generation_config.json``.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from extproc.config.models import ModelSpec
from extproc.errors import ModelUnusable
from extproc.models.source import TIKTOKEN_SUFFIXES, TOKENIZER_FILE
from extproc.tokens.prompt_cache import namespace_key

MAX_FILE_BYTES = 256 << 20
DEFAULT_TEMPLATE = "default"
TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_DIRECTORY = "additional_chat_templates"
_LEGACY_TEMPLATE_FILE = "chat_template.json"
_JSON_FILES = (
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json", "generation_config.json",
)  # fmt: skip

_SUFFIXES = (".json", ".jinja", ".tiktoken", ".model")

Stamp = tuple[tuple[str, int, int, int], ...]


class ModelFiles(NamedTuple):
    """What was read.

    ``tokenizer`` is the file with the vocabulary and ``vocabulary`` its content; the other files are empty mappings
    where they do not exist. ``revision`` is a hash of all content: equal revisions tokenize equally.
    """

    tokenizer: Path
    vocabulary: bytes
    config: Mapping[str, Any]
    special_tokens: Mapping[str, Any]
    added_tokens: Mapping[str, Any]
    model_type: str
    templates: Mapping[str, str]
    revision: bytes


def read_files(source: Path, spec: ModelSpec) -> ModelFiles:
    """Read the files of a model whose directory or tokenizer file is ``source``.

    Raises :class:`ModelUnusable`, which names the file at fault.
    """
    tokenizer = _tokenizer_file(source)
    directory = tokenizer.parent
    vocabulary = _read(tokenizer)
    config, special_tokens, added_tokens, model, _ = (_read_json(directory / name) for name in _JSON_FILES)
    model_type = str(model.get("model_type", ""))
    if "tokenizer_class" in model:
        config = {"tokenizer_class": model["tokenizer_class"], **config}
    templates = _templates(directory, config)
    if spec.chat_template_file:
        templates = {DEFAULT_TEMPLATE: _decoded(Path(spec.chat_template_file))}
    parts = [vocabulary, json.dumps([config, special_tokens, added_tokens, model_type, templates]).encode()]
    revision = namespace_key(parts)
    return ModelFiles(tokenizer, vocabulary, config, special_tokens, added_tokens, model_type, templates, revision)


def stamp_of(source: Path, spec: ModelSpec) -> Stamp:
    """Return what changes when one of the files in ``source`` does, without reading any."""
    directory = source if source.is_dir() else source.parent
    paths = {source} if source.is_file() else set()
    if spec.chat_template_file:
        paths.add(Path(spec.chat_template_file))
    for folder in (directory, directory / TEMPLATE_DIRECTORY):
        # It may be missing, or go away at any moment.
        with contextlib.suppress(OSError):
            paths.update(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
    entries = []
    for path in sorted(paths):
        try:
            status = path.stat()
        except OSError:
            continue
        entries.append((str(path), status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(entries)


def _tokenizer_file(source: Path) -> Path:
    if source.is_file():
        if source.name.endswith((".json", *TIKTOKEN_SUFFIXES)):
            return source
        raise ModelUnusable(f"{source}: neither a `.json` nor a tiktoken file")
    if (source / TOKENIZER_FILE).is_file():
        return source / TOKENIZER_FILE
    try:
        names = sorted(source.iterdir())
    except OSError as error:
        raise ModelUnusable(f"{source}: cannot be read: {error.strerror or error}") from error
    for path in names:
        if path.name.endswith(TIKTOKEN_SUFFIXES):
            return path
    raise ModelUnusable(f"{source / TOKENIZER_FILE}: is missing, and there is no tiktoken file")


def _templates(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the chat templates by name, files before those of the configuration, as `transformers` does."""
    files = {}
    if (directory / TEMPLATE_FILE).is_file():
        files[DEFAULT_TEMPLATE] = _decoded(directory / TEMPLATE_FILE)
    for path in sorted((directory / TEMPLATE_DIRECTORY).glob("*.jinja")):
        files[path.stem] = _decoded(path)
    if files:
        return files
    found = config.get("chat_template") or _read_json(directory / _LEGACY_TEMPLATE_FILE).get("chat_template")
    if found is None:
        return {}
    if isinstance(found, str):
        return {DEFAULT_TEMPLATE: found}
    try:
        return {str(entry["name"]): str(entry["template"]) for entry in found}
    except (TypeError, KeyError) as error:
        file = directory / "tokenizer_config.json"
        raise ModelUnusable(f"{file}: `chat_template` is neither text nor a list of names and templates") from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ModelUnusable(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(content) > MAX_FILE_BYTES:
        raise ModelUnusable(f"{path}: larger than {MAX_FILE_BYTES:,} bytes")
    return content


def _decoded(path: Path) -> str:
    try:
        return _read(path).decode()
    except UnicodeDecodeError as error:
        raise ModelUnusable(f"{path}: not UTF-8 text (byte {error.start:,})") from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        document = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise ModelUnusable(f"{path}: not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise ModelUnusable(f"{path}: must be a JSON object")
    return document
