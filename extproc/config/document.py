"""The configuration file as plain data: YAML without its surprises, or JSON.

The loader understands mappings, lists, text, whole numbers, decimal numbers, ``true``, ``false`` and nothing else.
``on``, ``off``, ``yes``, ``no``, dates and ``1:30`` are text, where YAML 1.1 has booleans, dates and base 60: the file
says ``tls: off`` and means the word. Merge keys and language tags are not understood at all, so a file cannot blow up
in memory or make objects.
"""

import json
import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from extproc.config.fault import bare

MAX_FILE_BYTES = 1 << 20
MAX_DEPTH = 16
MAX_VALUES = 100_000
MAX_FAULTS = 32

_TAG = "tag:yaml.org,2002:"
# Each pattern accepts a part of what YAML 1.1 accepts for that type, so what a YAML 1.1 tool writes is read alike.
_SCALARS = (
    (_TAG + "null", re.compile(r"^(?:~|null|Null|NULL|)$"), ("~", "n", "N", "")),
    (_TAG + "bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), tuple("tTfF")),
    (_TAG + "int", re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$"), tuple("-+0123456789")),
    (
        _TAG + "float",
        re.compile(
            r"^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|[-+]?\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        tuple("-+0123456789."),
    ),
)
_UNDERSTOOD = (*(tag for tag, _, _ in _SCALARS), _TAG + "str", _TAG + "seq", _TAG + "map")
_UNREADABLE = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """Return which patterns to try for a plain scalar, by its first character."""
    resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for tag, pattern, first_characters in _SCALARS:
        for character in first_characters:
            resolvers.setdefault(character, []).append((tag, pattern))
    return resolvers


class _Loader(yaml.SafeLoader):
    """Gathers duplicate keys in ``faults`` and goes on; any other fault of the text ends the reading."""

    yaml_implicit_resolvers = _resolvers()
    yaml_constructors: ClassVar[dict[Any, Any]] = {
        tag: yaml.SafeLoader.yaml_constructors[tag]
        for tag in (*_UNDERSTOOD, None)  # None: what to do with any other tag, which is to refuse it
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.faults: list[str] = []
        self._depth = 0
        self._values = 0

    def compose_node(self, parent: Any, index: Any) -> Any:  # noqa: ANN401 - as the base class has it
        """Refuse nesting that would end in a stack overflow, and more values than any fleet needs."""
        self._depth += 1
        self._values += 1
        if self._depth > MAX_DEPTH or self._values > MAX_VALUES:
            problem = "nested too deeply" if self._depth > MAX_DEPTH else f"more than {MAX_VALUES:,} values"
            raise yaml.composer.ComposerError(None, None, problem, parent.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002 - as the base
        """Turn the many ways in which a tagged value can be unreadable into one, with its place."""
        try:
            return super().construct_object(node, deep=deep)
        except _UNREADABLE as error:
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.tag.rpartition(':')[2]} cannot be read from this", node.start_mark
            ) from error

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:  # noqa: ANN401, FBT001, FBT002 - as the base
        """Take text keys only, each once."""
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(None, None, "a mapping is expected here", node.start_mark)
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            place = _place(key_node.start_mark)
            if len(self.faults) >= MAX_FAULTS:
                raise yaml.constructor.ConstructorError(
                    None, None, "too many faults, stopped here", key_node.start_mark
                )
            if key_node.tag != _TAG + "str":
                self.faults.append(f"{place}: a key must be text")
                continue
            key = self.construct_object(key_node, deep=True)
            if key in mapping:
                self.faults.append(f"{place}: duplicate key `{bare(key)}`")
            mapping[key] = self.construct_object(value_node, deep=deep)
        return mapping


def read_document(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Read a configuration file; return its top-level mapping and its faults, each starting with the file's name.

    A file whose name ends in ``.json`` is read as JSON, any other as YAML (which has most of JSON in it). A file that
    cannot be read at all gives an empty mapping and at least one fault.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        return {}, [f"{path}: cannot be read: {reason or error}"]
    if len(content) > MAX_FILE_BYTES:
        return {}, [f"{path}: larger than {MAX_FILE_BYTES:,} bytes"]
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        return {}, [f"{path}: not UTF-8 text (byte {error.start:,})"]
    document, faults = (parse_json if path.suffix == ".json" else parse_document)(text)
    return document, [f"{path}: {fault}" for fault in faults]


def parse_document(text: str) -> tuple[dict[str, Any], list[str]]:
    """Parse the text of a configuration file, as :func:`read_document` does."""
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return {}, [f"line {line}: character {error.character!r} is not allowed"]
    try:
        document = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        return {}, [*loader.faults, f"{_place(mark)}: {error.problem or error.context or 'not valid YAML'}"]
    if document is None:
        return {}, loader.faults
    if not isinstance(document, dict):
        return {}, [*loader.faults, "must be a mapping of groups"]
    return document, loader.faults


def parse_json(text: str) -> tuple[dict[str, Any], list[str]]:
    """Parse the text of a file in JSON; returns what :func:`read_document` does."""
    faults: list[str] = []

    def take(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key, value in pairs:
            if key in mapping and len(faults) < MAX_FAULTS:
                faults.append(f"duplicate key `{bare(key)}`")
            mapping[key] = value
        return mapping

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    try:
        document = json.loads(text, object_pairs_hook=take, parse_constant=refuse)
    except json.JSONDecodeError as error:
        return {}, [*faults, f"line {error.lineno}, column {error.colno}: {error.msg}"]
    except (ValueError, RecursionError) as error:
        return {}, [*faults, "nested too deeply" if isinstance(error, RecursionError) else str(error)]
    if not isinstance(document, dict):
        return {}, [*faults, "must be an object of groups"]
    return document, faults


def _place(mark: yaml.Mark | None) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
