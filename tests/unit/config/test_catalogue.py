import dataclasses

from extproc.config.catalogue import entries, fields_of, groups
from extproc.config.convert import from_file
from extproc.config.fleet import WorkerSpec
from extproc.config.server import ServerSettings
from extproc.config.settings import Settings


def test_one_declaration_gives_every_name() -> None:
    entry = entries()["server.max_body_bytes"]
    assert entry.environment_name == "EXTPROC_SERVER_MAX_BODY_BYTES"
    assert entry.flag == "--server.max-body-bytes"
    assert (entry.type, entry.default, entry.declaration.unit) == (int, 32 << 20, "bytes")


def test_every_field_of_every_group_is_listed() -> None:
    declared = [
        f"{group.name}.{field.name}"
        for group in dataclasses.fields(Settings)
        if group.name not in {"workers", "models", "plugins"}
        for field in dataclasses.fields(groups()[group.name])
    ]
    assert list(entries()) == declared
    assert groups()["server"] is ServerSettings


def test_fields_of_a_list_entry_have_no_group() -> None:
    paths = [entry.path for entry in fields_of(WorkerSpec).values()]
    assert paths[:4] == ["address", "id", "models", "draining"]
    assert len(paths) == len(dataclasses.fields(WorkerSpec))


def test_every_default_is_valid() -> None:
    def as_in_a_file(value: object) -> object:
        return list(value) if isinstance(value, tuple) else value

    assert [
        path for path, entry in entries().items() if from_file(as_in_a_file(entry.default), entry) != entry.default
    ] == []
