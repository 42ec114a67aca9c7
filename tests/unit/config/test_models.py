import dataclasses

import pytest

from extproc.config.catalogue import fields_of
from extproc.config.convert import from_file
from extproc.config.models import ModelSpec


def test_a_model_is_its_name_and_defaults() -> None:
    spec = ModelSpec(name="org/m")
    assert (spec.source, spec.revision, spec.chat_template_file, spec.default_chat_template_kwargs) == ("", "", "", "")
    assert not spec.allow_download
    assert not spec.trust_request_chat_template
    assert not spec.exclude_tools_when_tool_choice_none
    assert (spec.content_format, spec.block_size, spec.aliases, spec.lora_adapters) == ("auto", 16, (), ())


def test_a_model_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelSpec(name="m").name = "n"  # type: ignore[misc]


@pytest.mark.parametrize("block_size", [1, 1024])
def test_blocks_of_any_engine_are_taken(block_size: int) -> None:
    assert from_file(block_size, fields_of(ModelSpec)["block_size"]) == block_size


@pytest.mark.parametrize("block_size", [0, 1025, "16"])
def test_blocks_of_no_engine_are_refused(block_size: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        from_file(block_size, fields_of(ModelSpec)["block_size"])


def test_every_setting_explains_itself_in_a_sentence() -> None:
    assert [name for name, entry in fields_of(ModelSpec).items() if not entry.declaration.help.endswith(".")] == []
