"""Rendering: what a template gets, what is refused, and what stays as it was."""

import json
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

import pytest

from extproc.errors import InvalidRequest
from extproc.prompt.chat_template import ChatTemplate

TURNS = "{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}"
NOTHING: Mapping[str, Any] = MappingProxyType({})


def says(content: str, role: str = "user", **more: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"role": role, "content": content, **more}


def template(source: str, **special_tokens: str) -> ChatTemplate:
    return ChatTemplate(source, special_tokens=special_tokens)


def render(
    compiled: ChatTemplate,
    *messages: dict[str, Any],
    tools: list[Any] | None = None,
    documents: list[Any] | None = None,
    add_generation_prompt: bool = False,
    continue_final_message: bool = False,
    kwargs: Mapping[str, Any] = NOTHING,
) -> str:
    return compiled.render(
        list(messages),
        tools=tools,
        documents=documents,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
        kwargs=kwargs,
    )


def refused(compiled: ChatTemplate, *messages: dict[str, Any], **arguments: Any) -> InvalidRequest:  # noqa: ANN401
    with pytest.raises(InvalidRequest) as caught:
        render(compiled, *messages, **arguments)
    return caught.value


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("a\n{% if %}", "Expected an expression"),
        ("a\n{{ x | no_such_filter }}", "no_such_filter"),
        ("a\n{% generation %}", "end of template"),
        ("a\n{% no_such_tag %}", "no_such_tag"),
    ],
)
def test_a_template_that_does_not_compile_is_refused_with_reason_and_line(source: str, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"(?s){reason}.*line 2"):
        template(source)


def test_a_template_too_deep_for_python_is_refused() -> None:
    with pytest.raises(ValueError, match="does not compile"):
        template("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}")


def test_all_inputs_reach_the_template() -> None:
    source = (
        "{{ bos_token }}{{ messages[0].content }}{{ tools[0].a }}{{ documents[0].b }}{{ add_generation_prompt }}{{ x }}"
    )
    text = render(
        template(source, bos_token="<s>"),
        says("hi"),
        tools=[{"a": 1}],
        documents=[{"b": 2}],
        add_generation_prompt=True,
        kwargs={"x": 3},
    )
    assert text == "<s>hi12True3"


def test_request_variables_win_over_special_tokens() -> None:
    compiled = template("{{ bos_token }}", bos_token="<s>")
    assert render(compiled, says("hi"), kwargs={"bos_token": "<b>"}) == "<b>"
    assert render(compiled, says("hi")) == "<s>"


def test_variables_that_the_template_does_not_read_are_left_out() -> None:
    compiled = template("{{ context_variable is defined }}{% set a = 1 %}{{ a }}")
    assert render(compiled, says("hi"), kwargs={"a": 2, "b": 3}) == "False1"


def test_arguments_of_the_library_are_no_variables() -> None:
    assert render(template("{{ padding is defined }}{{ truncation }}"), says("hi"), kwargs={"padding": 1}) == "False"
    compiled = template("{{ add_generation_prompt }}{{ tools }}{{ documents }}")
    kwargs = {"add_generation_prompt": True, "tools": [{}], "documents": [{"a": 1}]}
    assert render(compiled, says("hi"), kwargs=kwargs) == "False[{}][{'a': 1}]"
    assert render(compiled, says("hi"), kwargs=kwargs, tools=[], documents=[]) == "False[][]"


@pytest.mark.parametrize("name", ["chat_template", "tokenize", "conversation", "messages"])
def test_variables_that_would_replace_our_own_are_refused(name: str) -> None:
    error = refused(template(TURNS), says("hi"), kwargs={name: "x"})
    assert error.param == "chat_template_kwargs"
    assert name in error.message


@pytest.mark.parametrize("param", ["tools", "documents"])
@pytest.mark.parametrize("value", [["text"], [{}, 1]])
def test_tools_and_documents_are_objects(param: str, value: list[Any]) -> None:
    assert refused(template(TURNS), says("hi"), **{param: value}).param == param
    assert refused(template(TURNS), says("hi"), kwargs={param: value}).param == param
    assert refused(template(TURNS), says("hi"), kwargs={param: "text"}).param == param


def test_there_must_be_a_message() -> None:
    assert refused(template("always")).param == "messages"


def test_the_words_of_the_template_are_the_refusal() -> None:
    error = refused(template("{{ raise_exception('Roles must alternate.') }}"), says("hi"))
    assert (error.message, error.param, error.status) == ("Roles must alternate.", "messages", 400)


def test_a_template_that_fails_refuses_the_request() -> None:
    error = refused(template("{{ messages[0].content + 1 }}"), says("secret"))
    assert error.param == "messages"
    assert "TypeError" in error.message
    assert "secret" not in error.message


def test_input_too_deep_for_the_template_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert refused(template("{{ x | tojson }}"), says("hi"), kwargs={"x": deep}).param == "messages"


def test_the_clock_is_that_of_the_constructor() -> None:
    moment = datetime(2024, 7, 26, 12)  # noqa: DTZ001 - templates show the local time
    compiled = ChatTemplate("{{ strftime_now('%d %b %Y') }}", special_tokens={}, clock=lambda: moment)
    assert render(compiled, says("hi")) == "26 Jul 2024"
    assert compiled.volatile(moment) == "26 Jul 2024"


@pytest.mark.parametrize("quote", ['"', "'"])
def test_developers_are_handed_on_to_a_template_that_knows_them(quote: str) -> None:
    compiled = template(TURNS + "{% if messages[0].role == 'developer' %}{% endif %}".replace("'", quote))
    assert compiled.supports_developer
    assert render(compiled, says("a", "developer"), says("b", "developer")) == "[developer:a][developer:b]"


def test_developers_become_the_system_for_others() -> None:
    compiled = template(TURNS + "developer")
    assert not compiled.supports_developer
    text = render(compiled, says("s", "system"), says("u"), says("a", "developer", tools=[]))
    assert text == "[system:s\n\na][user:u]developer"


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_read_under_either_name(name: str) -> None:
    compiled = template(
        "{{ messages[0].reasoning_content }}|{{ messages[0].thinking }}|{{ messages[1].reasoning_content }}"
    )
    assert render(compiled, says("x", "assistant", **{name: "hm"}), says("u")) == "hm|hm|"


def test_the_final_message_is_left_open() -> None:
    compiled = template("{% for m in messages %}<{{ m.content }}>{% endfor %}")
    assert render(compiled, says("a"), says("b", "assistant"), continue_final_message=True) == "<a><b"


def test_a_continuation_takes_no_generation_prompt() -> None:
    error = refused(template(TURNS), says("a"), add_generation_prompt=True, continue_final_message=True)
    assert error.param == "continue_final_message"


def test_a_template_without_contents_cannot_be_continued() -> None:
    error = refused(template("{{ messages | length }}"), says("a"), continue_final_message=True)
    assert error.param == "continue_final_message"


def test_the_callers_input_stays_as_it_is() -> None:
    parts = [{"type": "text", "text": "b"}]
    messages = [says("a", "developer"), says("b", "assistant", reasoning="r"), {"role": "assistant", "content": parts}]
    kwargs = {"x": [1]}
    before = json.dumps([messages, kwargs])
    compiled = template("{% for m in messages %}{{ m.content }}{{ x }}{% set x = [2] %}{% endfor %}")
    for _ in range(2):
        assert render(compiled, *messages, kwargs=kwargs, continue_final_message=True).endswith("'b")
    assert json.dumps([messages, kwargs]) == before


def test_renderings_do_not_see_each_other() -> None:
    compiled = template("{% if x is not defined %}first{% endif %}{% set x = 1 %}{{ messages[0].content }}")
    assert render(compiled, says("a")) == "firsta"
    assert render(compiled, says("b")) == "firstb"
