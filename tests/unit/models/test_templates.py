"""The chat templates of a model: which one counts, what they depend on, which tokens they write."""

from datetime import UTC, datetime
from typing import Any, Literal

import pytest

from extproc.errors import InvalidRequest, ModelUnusable
from extproc.models.templates import ModelTemplates
from extproc.prompt.chat_template import ChatTemplate
from extproc.tokens.boundaries import AddedToken

TURNS = "{% for message in messages %}<|start|>{{ message.role }}: {{ message.content }}<|end|>{% endfor %}"
STRICT = "{% if messages[1:] | selectattr('role', 'equalto', 'system') | list %}{{ raise_exception('No.') }}{% endif %}"
PARTS = "{% for message in messages %}{% for part in message.content %}{{ part.text }}{% endfor %}{% endfor %}"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NEXT_DAY = datetime(2026, 3, 2, 12, tzinfo=UTC)


def make(content_format: Literal["auto", "string", "openai"] = "auto", **sources: str) -> ModelTemplates:
    return ModelTemplates(sources, special_tokens={"bos_token": "<s>"}, content_format=content_format)


def rendered(template: ChatTemplate) -> str:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
    return template.render(
        messages, tools=None, documents=None, add_generation_prompt=True, continue_final_message=False, kwargs={}
    )


def test_a_request_gets_the_default_template_and_one_with_tools_that_for_tools() -> None:
    templates = make(default="plain {{ bos_token }}", tool_use="with tools")
    assert rendered(templates.select(tools=False)) == "plain <s>"
    assert rendered(templates.select(tools=True)) == "with tools"


def test_tools_go_to_the_default_template_where_there_is_no_other() -> None:
    assert rendered(make(default="plain").select(tools=True)) == "plain"


@pytest.mark.parametrize("sources", [{}, {"tool_use": "x"}, {"rag": "x"}])
def test_a_model_without_a_default_template_takes_no_messages(sources: dict[str, str]) -> None:
    templates = make("auto", **sources)
    assert bool(templates) is bool(sources)
    with pytest.raises(InvalidRequest, match="no chat template") as refused:
        templates.select(tools=False)
    assert refused.value.param == "messages"


def test_a_template_that_does_not_compile_is_named_with_its_line() -> None:
    with pytest.raises(ModelUnusable, match=r"chat template `rag`: .*\(line 2\)"):
        make(default="fine", rag="one\n{% for %}")


def test_a_request_may_name_a_template_or_bring_one() -> None:
    templates = make(default="plain", rag="of the name")
    assert rendered(templates.of_request("rag")) == "of the name"
    assert rendered(templates.of_request("{{ bos_token }}{{ messages[0].content }}")) == "<s>Hi"
    with pytest.raises(InvalidRequest, match=r"Not a chat template: .*line 1") as refused:
        templates.of_request("{{")
    assert refused.value.param == "chat_template"


@pytest.mark.parametrize(
    ("given", "source", "expected"),
    [
        ("auto", TURNS, "string"),
        ("auto", PARTS, "openai"),
        ("string", PARTS, "string"),
        ("openai", TURNS, "openai"),
    ],
)
def test_the_form_of_contents_is_found_out_or_as_configured(
    given: Literal["auto", "string", "openai"], source: str, expected: str
) -> None:
    templates = make(given, default=source)
    assert templates.format_of(templates.select(tools=False)) == expected


def test_what_is_written_of_the_present_is_told() -> None:
    templates = make(default="{{ strftime_now('%d %b %Y') }}", tool_use=TURNS)
    assert not templates.timeless
    assert templates.volatile(NOON) == templates.volatile(NOON.replace(hour=13))
    assert templates.volatile(NOON) != templates.volatile(NEXT_DAY)


def test_the_time_in_any_of_the_templates_counts() -> None:
    templates = make(default=TURNS, tool_use="{{ strftime_now('%H') }}")
    assert not templates.timeless
    assert templates.volatile(NOON) != templates.volatile(NOON.replace(hour=13))


def test_templates_without_the_time_are_timeless() -> None:
    templates = make(default=TURNS, tool_use=STRICT)
    assert templates.timeless
    assert templates.volatile(NOON) == templates.volatile(NEXT_DAY)


@pytest.mark.parametrize("source", ["{{ strftime_now(form) }}", "{{ [1, 2] | random }}", "{{ lipsum() }}"])
def test_what_cannot_be_told_beforehand_is_not_told(source: str) -> None:
    templates = make(default=TURNS, tool_use=source)
    assert not templates.timeless
    assert templates.volatile(NOON) is None


def test_a_template_that_refuses_a_late_system_message_wants_it_first() -> None:
    assert make(default=TURNS).wants_system_first is False
    assert make(default=STRICT + TURNS).wants_system_first is True
    assert make(default=TURNS, tool_use=STRICT + TURNS).wants_system_first is True
    assert make().wants_system_first is False


def test_the_tokens_that_separate_turns_are_found() -> None:
    added = [
        AddedToken(number, content)
        for number, content in enumerate(("<s>", "<|start|>", "<|end|>", "<|tool|>", "<|result|>", "<|unused|>"))
    ]
    tool_use = "{% for tool in tools %}<|tool|>{% endfor %}{% for message in messages %}{% if message.role == 'tool' %}<|result|>{% endif %}{% endfor %}"  # noqa: E501
    assert make(default=TURNS).written_tokens(added) == added[1:3]
    assert make(default=TURNS, tool_use=tool_use).written_tokens(added) == added[1:5]
    assert make().written_tokens(added) == []


def test_a_template_that_refuses_some_samples_is_judged_by_the_others() -> None:
    templates = make(default="{% if tools %}{{ raise_exception('No tools.') }}{% endif %}" + TURNS)
    assert templates.written_tokens([AddedToken(1, "<|start|>")]) == [AddedToken(1, "<|start|>")]


@pytest.mark.parametrize(
    ("source", "can"),
    [
        ("{% if enable_thinking is false %}no {% endif %}thought", True),
        ("thought whatever is asked for", False),
        ("{% if reasoning_effort == 'none' %}{{ raise_exception('always') }}{% endif %}thought", False),
        ("{{ 'low' if reasoning_effort in ('none', 'low') else 'high' }}", False),
        ("{{ reasoning_effort }}", True),
    ],
)
def test_thinking_can_be_stopped_where_that_changes_what_is_written(source: str, can: bool) -> None:
    templates = ModelTemplates({"default": source}, special_tokens={}, content_format="auto")
    assert templates.can_stop_thinking is can
