import os
from pathlib import Path

import pytest

from extproc.config.document import MAX_FAULTS, MAX_FILE_BYTES, MAX_VALUES, parse_document, parse_json, read_document


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("12", 12),
        ("-1_000", -1000),
        ("0x1F", 31),
        ("1.5", 1.5),
        ("1.0e+3", 1000.0),
        ("~", None),
        ("", None),
        ("off", "off"),
        ("yes", "yes"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("1e3", "1e3"),
        ("2001-01-01", "2001-01-01"),
        ("'12'", "12"),
        ("!!str 12", "12"),
        ("[1, a]", [1, "a"]),
        ("{b: 1}", {"b": 1}),
    ],
)
def test_reads_plain_values_without_the_surprises_of_yaml_1_1(text: str, value: object) -> None:
    document, faults = parse_document(f"a: {text}")
    assert (document, faults) == ({"a": value}, [])
    assert type(document["a"]) is type(value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[", "line 1, column 2: expected the node content, but found '<stream end>'"),
        ("a: b: c", "line 1, column 5: mapping values are not allowed here"),
        ("a: 1\nb: *c", "line 2, column 4: found undefined alias 'c'"),
        ("a: 1\n---\nb: 2", "line 2, column 1: but found another document"),
        ("- 1", "must be a mapping of groups"),
        ("12", "must be a mapping of groups"),
        ("&a [*a]", "must be a mapping of groups"),
        ("a: !!int x", "line 1, column 4: int cannot be read from this"),
        ("a: !!int ''", "line 1, column 4: int cannot be read from this"),
        ("a: !!bool x", "line 1, column 4: bool cannot be read from this"),
        ("a: " + "9" * 5000, "line 1, column 4: int cannot be read from this"),
        ("a: !!map 3", "line 1, column 4: a mapping is expected here"),
        ("a: 1\nb: \x01", "line 2: character 1 is not allowed"),
        ("[" * 100_000, "line 1, column 16: nested too deeply"),
    ],
)
def test_says_where_the_text_is_wrong(text: str, fault: str) -> None:
    assert parse_document(text) == ({}, [fault])


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system", "!!python/name:os.system", "!!timestamp", "!!set", "!x"]
)
def test_refuses_language_tags(tag: str) -> None:
    document, faults = parse_document(f"a: {tag} [x]")
    assert document == {}
    assert "could not determine a constructor for the tag" in faults[0]


def test_merge_keys_are_ordinary_keys() -> None:
    """A chain of merges doubles the mapping at every step, so they are not followed."""
    assert parse_document("a: &a {x: 1}\nb: {<<: *a}") == ({"a": {"x": 1}, "b": {"<<": {"x": 1}}}, [])


def test_reports_every_duplicate_and_odd_key() -> None:
    document, faults = parse_document("a: 1\nb: {c: 1, c: 2}\na: 3\n4: 5\n? [6]\n: 7\n")
    assert document == {"a": 3, "b": {"c": 2}}
    assert sorted(faults) == [
        "line 2, column 11: duplicate key `c`",
        "line 3, column 1: duplicate key `a`",
        "line 4, column 1: a key must be text",
        "line 5, column 3: a key must be text",
    ]


def test_stops_at_a_bounded_number_of_faults() -> None:
    _, faults = parse_document("a: 1\n" * 1000)
    assert len(faults) == MAX_FAULTS + 1
    assert faults[-1].endswith("too many faults, stopped here")


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "\ufeff"])
def test_an_empty_file_is_an_empty_mapping(text: str) -> None:
    assert parse_document(text) == ({}, [])


def test_stops_at_a_bounded_number_of_values() -> None:
    """The observer reads the file again while it runs, and a megabyte of brackets takes many seconds."""
    document, faults = parse_document(f"a: [{'[],' * MAX_VALUES}]")
    assert (document, faults) == ({}, ["line 1, column 4: more than 100,000 values"])


def test_reads_a_file_and_names_it_in_its_faults(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("a: 1\na: 2\n")
    assert read_document(path) == ({"a": 2}, [f"{path}: line 2, column 1: duplicate key `a`"])


def test_a_missing_file_and_a_directory_are_faults(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    assert read_document(missing) == ({}, [f"{missing}: cannot be read: {os.strerror(2)}"])
    assert read_document(tmp_path) == ({}, [f"{tmp_path}: cannot be read: {os.strerror(21)}"])


def test_a_name_that_no_file_can_have_is_a_fault() -> None:
    assert read_document(Path("a\0b"))[1] != []


def test_refuses_a_file_over_the_limit_and_takes_one_at_it(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"a: 1\n".ljust(MAX_FILE_BYTES, b"#"))
    assert read_document(path)[1] == []
    path.write_bytes(b"a: 1\n".ljust(MAX_FILE_BYTES + 1, b"#"))
    assert read_document(path) == ({}, [f"{path}: larger than 1,048,576 bytes"])


def test_refuses_text_that_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"a: \xff")
    assert read_document(path) == ({}, [f"{path}: not UTF-8 text (byte 3)"])


def test_a_file_of_that_name_is_json(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('{\n\t"a": "\\ud83d\\ude00", "b": [1, 1.5, true, null]\n}')
    assert read_document(path) == ({"a": "\U0001f600", "b": [1, 1.5, True, None]}, [])
    path.write_text("a: 1")
    assert read_document(path) == ({}, [f"{path}: line 1, column 1: Expecting value"])


@pytest.mark.parametrize(
    ("text", "document", "faults"),
    [
        (
            '{"a": 1, "b": {"c": 1, "c": 2}, "a": 3}',
            {"a": 3, "b": {"c": 2}},
            ["duplicate key `c`", "duplicate key `a`"],
        ),
        ('{"a": NaN}', {}, ["NaN is not JSON"]),
        ('{"a": -Infinity}', {}, ["-Infinity is not JSON"]),
        ("[" * 100_000, {}, ["nested too deeply"]),
        ("[]", {}, ["must be an object of groups"]),
        ('{"a": 1,}', {}, ["line 1, column 9: Expecting property name enclosed in double quotes"]),
    ],
)
def test_json_has_no_surprises_either(text: str, document: dict[str, object], faults: list[str]) -> None:
    assert parse_json(text) == (document, faults)


def test_json_with_a_number_beyond_all_bounds_is_a_fault() -> None:
    document, faults = parse_json('{"a": ' + "9" * 5000 + "}")
    assert document == {}
    assert "digits" in faults[0]


def test_json_stops_at_a_bounded_number_of_faults() -> None:
    _, faults = parse_json('{"a": 1' + ', "a": 1' * 1000 + "}")
    assert len(faults) == MAX_FAULTS
