from pathlib import Path

import pytest
from hypothesis import given, settings

from extproc.config.model_list import MAX_MODELS, MAX_OTHER_NAMES, find_model_faults, names_of, read_models
from extproc.config.models import ModelSpec
from tests.support.settings import model_lists


def faults_of(*items: object) -> list[str]:
    return [str(fault) for fault in read_models(list(items))[1]]


def test_reads_a_list(tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text("")
    models, faults = read_models(
        [
            {"name": "org/m"},
            {
                "name": "n",
                "source": "package:tokenizer",
                "revision": "main",
                "allow_download": True,
                "aliases": ["o", "p"],
                "lora_adapters": ["q"],
                "chat_template_file": str(template),
                "content_format": "openai",
                "default_chat_template_kwargs": '{"enable_thinking": false}',
                "exclude_tools_when_tool_choice_none": True,
                "trust_request_chat_template": True,
                "tiktoken_pattern": "cl100k",
                "block_size": 32,
            },
        ]
    )
    assert faults == []
    assert models == (
        ModelSpec(name="org/m"),
        ModelSpec(
            name="n",
            source="package:tokenizer",
            revision="main",
            allow_download=True,
            aliases=("o", "p"),
            lora_adapters=("q",),
            chat_template_file=str(template),
            content_format="openai",
            default_chat_template_kwargs='{"enable_thinking": false}',
            exclude_tools_when_tool_choice_none=True,
            trust_request_chat_template=True,
            tiktoken_pattern="cl100k",
            block_size=32,
        ),
    )


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (None, "models: must be a list, not nothing"),
        ({}, "models: must be a list, not a mapping"),
        ([{}] * (MAX_MODELS + 1), "models: must have at most 64 entries, not 65"),
    ],
)
def test_refuses_what_is_no_list_of_bearable_length(value: object, fault: str) -> None:
    models, faults = read_models(value)
    assert (models, [str(found) for found in faults]) == ((), [fault])


def test_takes_as_many_models_and_names_as_allowed() -> None:
    value = [
        {"name": f"m{n}", "aliases": [f"m{n}-{other}" for other in range(MAX_OTHER_NAMES)]} for n in range(MAX_MODELS)
    ]
    assert read_models(value)[1] == []


def test_aliases_and_adapters_are_counted_together() -> None:
    aliases = [f"a{n}" for n in range(MAX_OTHER_NAMES)]
    assert faults_of({"name": "m", "aliases": aliases, "lora_adapters": ["b"]}) == [
        "models[0]: must have at most 64 aliases and adapters, not 65"
    ]


def test_every_name_is_used_once_whatever_it_is() -> None:
    assert faults_of(
        {"name": "a", "aliases": ["b", "a"], "lora_adapters": ["c", "b"]},
        {"name": "b", "aliases": ["a"], "lora_adapters": ["c", "d"]},
        {"name": "d"},
        {"name": "A"},
    ) == [
        "models[0].aliases[1]: is also the name of models[0]",
        "models[0].lora_adapters[1]: is also an alias of models[0]",
        "models[1].name: is also an alias of models[0]",
        "models[1].aliases[0]: is also the name of models[0]",
        "models[1].lora_adapters[0]: is also an adapter of models[0]",
        "models[2].name: is also an adapter of models[1]",
    ]


def test_a_name_has_a_bearable_length() -> None:
    long = "x" * 257
    assert faults_of({}, {"name": long, "aliases": ["", long[1:]], "lora_adapters": [long]}) == [
        "models[0].name: is required: the `model` of requests",
        "models[1].name: must be 1 to 256 characters long",
        "models[1].aliases[0]: must be 1 to 256 characters long",
        "models[1].lora_adapters[0]: must be 1 to 256 characters long",
    ]


@pytest.mark.parametrize("text", ["{}", ' {"a": [1, null, {"b": "\\u00e9"}]} '])
def test_takes_a_json_object_for_the_template(text: str) -> None:
    assert faults_of({"name": "m", "default_chat_template_kwargs": text}) == []


@pytest.mark.parametrize("text", ["[]", "null", "{", "{a: 1}", '{"a": NaN}', '{"a": ' + "[" * 2000 + "]" * 2000 + "}"])
def test_refuses_what_is_no_json_object_for_the_template(text: str) -> None:
    (fault,) = faults_of({"name": "m", "default_chat_template_kwargs": text})
    assert fault.startswith("models[0].default_chat_template_kwargs: must be a JSON object; is '")


def test_the_template_is_a_file_that_can_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert faults_of(
        {"name": "m", "chat_template_file": str(missing)}, {"name": "n", "chat_template_file": str(tmp_path)}
    ) == [
        f"models[0].chat_template_file: '{missing}' is not a file that can be read",
        f"models[1].chat_template_file: '{tmp_path}' is not a file that can be read",
    ]


def test_a_source_is_not_looked_at(tmp_path: Path) -> None:
    assert faults_of({"name": "m", "source": str(tmp_path / "missing")}) == []


def test_faults_keep_the_index_of_the_file_past_unreadable_entries() -> None:
    assert faults_of("m", {"nam": "m", "block_size": 0, "content_format": "text"}, {"name": ""}) == [
        "models[0]: must be a mapping with a `name`, not 'm'",
        "models[1].nam: unknown key - did you mean `name`?",
        "models[1].content_format: must be `auto` or `string` or `openai`, not 'text'",
        "models[1].block_size: must be at least 1 tokens, not 0",
        "models[2].name: is required: the `model` of requests",
    ]


@given(model_lists())
@settings(deadline=None)
def test_entries_made_in_code_are_checked_alike(models: tuple[ModelSpec, ...]) -> None:
    assert find_model_faults(models) == []
    assert len(find_model_faults((*models, *models))) == sum(len(names_of(spec)) for spec in models)


def test_too_many_entries_made_in_code_are_one_fault() -> None:
    assert len(find_model_faults((ModelSpec(),) * (MAX_MODELS + 1))) == 1


def test_a_model_goes_by_all_its_names() -> None:
    assert names_of(ModelSpec(name="a", aliases=("b",), lora_adapters=("c", "d"))) == ("a", "b", "c", "d")
