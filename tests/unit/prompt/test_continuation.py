"""Leaving the last message open."""

import json
from typing import Any

import pytest

from extproc.errors import InvalidRequest
from extproc.prompt.continuation import cut_at_mark, mark_end


def answer(content: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    return [{"role": "user", "content": "q"}, {"role": "assistant", "content": content}]


@pytest.mark.parametrize("text", ["so", "", " so ", "so CONTINUE_FINAL_MESSAGE_TAG on"])
def test_what_follows_the_final_message_is_cut_off(text: str) -> None:
    messages, final = mark_end(answer(text))
    assert cut_at_mark(f"<q><{messages[-1]['content']}></s>", final) == f"<q><{text}"


def test_white_space_goes_where_the_template_trims() -> None:
    messages, final = mark_end(answer("so  "))
    assert cut_at_mark(f"<{messages[-1]['content'].strip()}>", final) == "<so"


def test_of_parts_the_last_text_is_left_open() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, {"type": "image"}]
    messages, final = mark_end(answer(parts))
    marked = messages[-1]["content"]
    assert final == "b"
    assert marked[1]["text"].startswith("b")
    assert [marked[0], marked[2]] == [parts[0], parts[2]]


@pytest.mark.parametrize("content", ["text", [{"type": "text", "text": "a"}]])
def test_the_given_messages_stay_as_they_are(content: Any) -> None:  # noqa: ANN401
    messages = answer(content)
    before = json.dumps(messages)
    mark_end(messages)
    assert json.dumps(messages) == before


@pytest.mark.parametrize("content", [[], [{"type": "image"}], None])
def test_there_must_be_a_text(content: Any) -> None:  # noqa: ANN401
    with pytest.raises(InvalidRequest) as refused:
        mark_end(answer(content))
    assert refused.value.param == "continue_final_message"


@pytest.mark.parametrize("rendered", ["<q>", "<q><secret>", "<q><CONTINUE_FINAL_MESSAGE_TAG >"])
def test_a_message_that_the_template_drops_or_changes_is_not_quoted(rendered: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        cut_at_mark(rendered, "secret")
    assert refused.value.param == "continue_final_message"
    assert "secret" not in refused.value.message
