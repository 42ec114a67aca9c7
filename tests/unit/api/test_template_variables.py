"""Variables for the template; that they are merged as vLLM does is tested in ``tests/conformance``."""

import json
from typing import Any

import msgspec
import pytest

from extproc.api.body import NULL
from extproc.api.template_variables import template_variables
from extproc.errors import InvalidRequest


def merged(given: Any, effort: str | None = None) -> tuple[dict[str, Any], Any] | None:  # noqa: ANN401
    return template_variables(msgspec.Raw(json.dumps(given).encode()), effort=effort)


def test_nothing_is_given() -> None:
    assert template_variables(NULL) == ({}, None)
    assert merged({}) == ({}, None)


def test_null_and_auto_count_as_not_given() -> None:
    assert merged({"a": None, "b": "auto", "c": 0, "d": "", "e": []}) == ({"c": 0, "d": "", "e": []}, None)


@pytest.mark.parametrize(("effort", "enabled"), [("none", False), ("low", True)])
def test_an_effort_switches_thinking(effort: str, enabled: bool) -> None:
    assert merged({"reasoning_effort": "max"}, effort) == (
        {"reasoning_effort": effort, "enable_thinking": enabled},
        None,
    )


@pytest.mark.parametrize(("said", "kept"), [(False, {"enable_thinking": False}), (None, {})])
def test_what_the_request_says_of_thinking_stays(said: bool | None, kept: dict[str, Any]) -> None:
    assert merged({"enable_thinking": said}, "high") == ({"reasoning_effort": "high", **kept}, None)


def test_documents_are_no_variable() -> None:
    assert merged({"documents": [{"text": "t"}], "x": 1}) == ({"x": 1}, [{"text": "t"}])


def test_fields_of_the_same_name_win() -> None:
    assert merged({"add_generation_prompt": False, "continue_final_message": True}) == ({}, None)


@pytest.mark.parametrize("name", ["tools", "max_length", "truncation", "conversation"])
def test_arguments_of_the_tokenizer_hide_the_prompt(name: str) -> None:
    assert merged({name: []}) is None
    assert merged({name: None}) == ({}, None)


def test_anything_but_an_object_is_refused() -> None:
    with pytest.raises(InvalidRequest) as refused:
        merged([1])
    assert refused.value.param == "chat_template_kwargs"
