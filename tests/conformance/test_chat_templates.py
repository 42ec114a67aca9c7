"""Our prompts against those of the engine and of the library that it renders with.

Texts: every template in ``tests/support/chat_templates`` renders generated conversations as the `transformers` library
does. Conversations: ``vllm_conversations.json`` has what vLLM makes of messages. It was written by vLLM itself, which
is too large to be installed for a test; ``made_with`` tells by which functions.
"""

import json
import os
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extproc.errors import InvalidRequest
from extproc.prompt.chat_template import ChatTemplate
from extproc.prompt.conversation import to_conversation
from extproc.prompt.system_messages import without_developers

os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it would advise to install PyTorch
from transformers.utils import chat_template_utils as library

TEMPLATES = sorted((Path(__file__).parents[1] / "support" / "chat_templates").glob("*.jinja"))
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
GOLDEN = json.loads((Path(__file__).parent / "vllm_conversations.json").read_text())

unhurried = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])

texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(
        [
            "",
            " ",
            "hello",
            " two\n lines \n",
            "<think>\nhm\n</think>\n\nyes",
            "</think>",
            "<tool_response>x</tool_response>",
            "{{ messages }}",
            "<|im_end|>",
            "CONTINUE_FINAL_MESSAGE_TAG ",
            "👩\u200d👩\u200d👧 é",
            "\u2028\x00",
            "<b>&\"'",
            "it's",
        ]
    ),
)
names = st.sampled_from(["get_weather", "f", "items", "naïve"])
numbers = st.integers() | st.floats()
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
schemas = st.sampled_from(
    [
        {"type": "object", "properties": {}},
        {
            "type": "object",
            "properties": {"b": {"type": "string"}, "a": {"type": "array", "items": {"type": "integer"}}},
        },
        {"type": "object", "properties": {"ü": {"type": ["string", "null"], "enum": ["<", "é"]}}, "required": ["ü"]},
    ]
)
tools = st.fixed_dictionaries(
    {
        "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": names}, optional={"description": texts, "parameters": schemas}),
    }
)
tool_calls = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["abcdefghi", "call_1"]),
        "type": st.just("function"),
        "function": st.fixed_dictionaries(
            {
                "name": names,
                "arguments": st.one_of(st.dictionaries(texts, values, max_size=3).map(json.dumps), st.just("{")),
            }
        ),
    }
)
text_parts = texts | st.fixed_dictionaries({"type": st.just("text"), "text": texts}, optional={"cache_control": values})
media_parts = st.sampled_from(
    [
        {"type": "image_url", "image_url": {"url": "http://example.org/a.png"}},
        {"type": "video_url", "video_url": {"url": "http://example.org/a.mp4"}},
    ]
)


def message(role: str, content: st.SearchStrategy[Any], **optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({"role": st.just(role), "content": content}, optional=optional)


contents = texts | st.lists(text_parts, max_size=3)
systems = message("system", contents)
developers = message("developer", contents, tools=st.lists(tools, max_size=2))
users = message("user", contents | st.lists(text_parts | media_parts, max_size=3), name=texts)
answers = message("assistant", contents, reasoning_content=texts, tool_calls=st.lists(tool_calls, max_size=1))
calls = message(
    "assistant", texts | st.none(), reasoning=texts, tool_calls=st.lists(tool_calls, min_size=1, max_size=2)
)
results = message("tool", contents, tool_call_id=st.sampled_from(["abcdefghi", "call_1"]))


def orderly(heads: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Conversations that templates expect: perhaps a head, then turns, with tools called in between."""
    turn = st.tuples(users, st.lists(st.tuples(calls, results), max_size=1), answers).map(
        lambda turn: [turn[0], *(one for pair in turn[1] for one in pair), turn[2]]
    )
    parts = st.tuples(st.lists(heads, max_size=1), st.lists(turn, max_size=3), st.lists(users, min_size=0, max_size=1))
    return parts.map(lambda parts: [*parts[0], *(one for turn in parts[1] for one in turn), *parts[2]]).filter(bool)


arguments = st.fixed_dictionaries(
    {
        "tools": st.none() | st.lists(tools, max_size=2),
        "documents": st.none() | st.lists(st.fixed_dictionaries({"title": texts, "text": texts}), max_size=2),
    }
)
extras = st.fixed_dictionaries(
    {},
    optional={
        "enable_thinking": st.booleans() | st.none(),
        "add_vision_id": st.booleans(),
        "date_string": texts,
        "reasoning_effort": st.sampled_from(["low", 5]),
        "tools_in_user_message": st.booleans(),
        "builtin_tools": st.lists(names, max_size=2),
        "bos_token": texts,
        "nobody_reads_this": values,
    },
)
endings = st.sampled_from([(True, False), (False, False), (False, True)])


class FixedClock(datetime):
    """A clock for both sides, so that no test runs over midnight."""

    @classmethod
    def now(cls, tz: Any = None) -> "FixedClock":  # noqa: ANN401
        return cls(2025, 2, 3, 4, 5, 6, tzinfo=tz)


@cache
def ours(path: Path) -> ChatTemplate:
    return ChatTemplate(path.read_text(), special_tokens=SPECIAL_TOKENS, clock=FixedClock.now)


def theirs(path: Path, conversation: list[Any], **arguments: Any) -> str | None:  # noqa: ANN401
    try:
        rendered = library.render_jinja_template([conversation], chat_template=path.read_text(), **arguments)
    except Exception:  # noqa: BLE001 - a template raises what it likes
        return None
    return str(rendered[0][0])


def compare(
    path: Path, messages: list[Any], ending: tuple[bool, bool], given: dict[str, Any], extra: dict[str, Any]
) -> None:
    template = ours(path)
    conversation = to_conversation(messages, content_format=template.content_format).messages
    before = json.dumps(conversation)
    given |= {"add_generation_prompt": ending[0], "continue_final_message": ending[1]}
    try:
        text = template.render(conversation, kwargs=extra, **given)
    except InvalidRequest:
        text = None
    assert json.dumps(conversation) == before
    assert text == theirs(path, conversation, **given, **{**SPECIAL_TOKENS, **extra})


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "datetime", FixedClock)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
@settings(unhurried, suppress_health_check=list(HealthCheck))
@given(data=st.data(), ending=endings, given=arguments, extra=extras)
def test_orderly_conversations_render_alike(
    path: Path, data: st.DataObject, ending: tuple[bool, bool], given: dict[str, Any], extra: dict[str, Any]
) -> None:
    heads = systems | developers if ours(path).supports_developer else systems
    compare(path, data.draw(orderly(heads)), ending, given, extra)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
@settings(unhurried, suppress_health_check=list(HealthCheck))
@given(data=st.data(), ending=endings, given=arguments, extra=extras)
def test_messages_in_any_order_render_alike_or_fail_alike(
    path: Path, data: st.DataObject, ending: tuple[bool, bool], given: dict[str, Any], extra: dict[str, Any]
) -> None:
    kinds = [systems, users, answers, calls, results]
    if ours(path).supports_developer:
        kinds.append(developers)
    compare(path, data.draw(st.lists(st.one_of(kinds), min_size=1, max_size=5)), ending, given, extra)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_every_template_renders_a_plain_conversation(path: Path) -> None:
    messages = [{"role": role, "content": f"the {role}'s text"} for role in ("system", "user", "assistant", "user")]
    template = ours(path)
    conversation = to_conversation(messages, content_format=template.content_format).messages
    arguments: dict[str, Any] = {"tools": None, "documents": None, "add_generation_prompt": True}
    arguments["tools"] = [] if path.stem == "tool_use" else None
    text = template.render(conversation, continue_final_message=False, kwargs={}, **arguments)
    assert all(text.count(f"the {role}'s text") for role in ("system", "user", "assistant"))
    assert text == theirs(path, conversation, **arguments, **SPECIAL_TOKENS)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: str(case["messages"])[:60])
def test_conversations_are_those_of_the_engine(case: dict[str, Any]) -> None:
    before = json.dumps(case["messages"])
    conversation = to_conversation(case["messages"], content_format=case["content_format"])
    # As text, because the order of keys counts, and NaN equals nothing.
    assert json.dumps(conversation.messages) == json.dumps(case["conversation"])
    assert conversation.exact
    assert json.dumps(case["messages"]) == before


@pytest.mark.parametrize("case", GOLDEN["developers"], ids=lambda case: str(case["given"])[:60])
def test_developer_messages_become_system_messages_as_in_the_engine(case: dict[str, Any]) -> None:
    assert json.dumps(without_developers(case["given"])) == json.dumps(case["expected"])
