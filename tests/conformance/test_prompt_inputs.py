"""What bodies come to, against what vLLM makes of them before it renders a chat template.

``vllm_prompt_inputs.json`` was written by vLLM itself, which is too large to be installed for a test; ``made_with``
tells by which functions. Messages are compared as a template gets them, since both sides keep fields that none sees.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from extproc.api.anthropic_conversion import merge_inline_system
from extproc.api.prompt_input import ChatInput, PromptInput, TextInput
from extproc.errors import InvalidRequest
from extproc.prompt.content_format import ContentFormat
from extproc.prompt.conversation import to_conversation
from tests.support.readers import parse

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "vllm_prompt_inputs.json").read_text())["cases"]
FORMATS: tuple[ContentFormat, ...] = ("string", "openai")
CHAT_FIELDS = (
    "add_generation_prompt", "add_special_tokens", "chat_template", "continue_final_message", "documents", "kwargs",
    "tools",
)  # fmt: skip


def made_by_vllm(*kinds: str) -> list[Any]:
    """The cases whose prompt is of one of the kinds; ``refused`` are those that vLLM takes no prompt from."""
    return [
        pytest.param(case, id=f"{index}:{case['path']}")
        for index, case in enumerate(CASES)
        if next(iter(case["prompt"] or ("refused",))) in kinds
    ]


def prompt_of(case: dict[str, Any]) -> PromptInput | None:
    body = parse(case["path"], model="m", **case["body"])
    body.validate()
    return body.prompt_input()


def in_template(messages: list[Any]) -> list[str]:
    """Messages as templates of both kinds get them, with the order of their keys."""
    return [json.dumps(to_conversation(messages, content_format=form).messages) for form in FORMATS]


@pytest.mark.parametrize("case", made_by_vllm("chat"))
def test_chats(case: dict[str, Any]) -> None:
    expected, prompt = case["prompt"]["chat"], prompt_of(case)
    assert isinstance(prompt, ChatInput)
    assert {field: getattr(prompt, field) for field in CHAT_FIELDS} == {field: expected[field] for field in CHAT_FIELDS}
    assert json.dumps(prompt.tools) == json.dumps(expected["tools"]), "the order of keys"
    assert in_template(prompt.messages) == in_template(expected["messages"])
    assert (prompt.tool_choice_none and bool(prompt.tools)) == expected["tool_choice_none"]


@pytest.mark.parametrize("case", made_by_vllm("texts", "ids"))
def test_texts_and_ids(case: dict[str, Any]) -> None:
    prompt = prompt_of(case)
    assert prompt is not None
    assert not isinstance(prompt, ChatInput)
    if isinstance(prompt, TextInput):
        shown: dict[str, Any] = {"texts": list(prompt.texts), "add_special_tokens": prompt.add_special_tokens}
    else:
        shown = {"ids": [ids.tolist() for ids in prompt.prompts]}
    assert shown == case["prompt"]


@pytest.mark.parametrize("case", made_by_vllm("unknown", "refused"))
def test_what_has_no_prompt_for_vllm_has_none_here(case: dict[str, Any]) -> None:
    try:
        prompt = prompt_of(case)
    except InvalidRequest:
        return
    assert prompt is None


@pytest.mark.parametrize("case", [pytest.param(case, id=str(i)) for i, case in enumerate(CASES) if "merged" in case])
def test_system_messages_among_the_turns_are_merged(case: dict[str, Any]) -> None:
    prompt = prompt_of(case)
    assert isinstance(prompt, ChatInput)
    assert prompt.inline_system
    assert in_template(merge_inline_system(prompt.messages)) == in_template(case["merged"])
