import array

import pytest

from workers.simulated.api.base import (
    PromptItem,
    aligned_ids,
    aligned_text,
    count_tokens,
    read_prompts,
    text_ids,
    token_ids,
)
from workers.simulated.api.chat import Message, Part, message_ids
from workers.simulated.errors import ApiError


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("é", 1), ("éééé", 2)])
def test_a_token_is_four_bytes_of_utf8(text: str, tokens: int) -> None:
    assert count_tokens(text) == tokens
    assert len(token_ids(text)) == tokens


def test_equal_prefixes_have_equal_tokens() -> None:
    assert token_ids("abcdefgh-one")[:2] == token_ids("abcdefgh-two")[:2]
    assert token_ids("abcd") == [int.from_bytes(b"abcd", "little")]


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("abcdefg", (b"abcdefg\0",)),
        (["abcd", "abcdefgh"], (b"abcd", b"abcdefgh")),
        ([7, 8, 1 << 31], (array.array("I", [7, 8, 1 << 31]).tobytes(),)),
        ([[7, 8], [9]], (array.array("I", [7, 8]).tobytes(), array.array("I", [9]).tobytes())),
    ],
    ids=["text", "texts", "ids", "lists-of-ids"],
)
def test_prompts_are_read_in_every_shape(prompt: str | list[PromptItem], ids: tuple[bytes, ...]) -> None:
    assert read_prompts(prompt, param="prompt") == ids


@pytest.mark.parametrize(
    "prompt",
    [[], ["text", 7], ["x"] * 2049, [-1], [[1 << 32]]],
    ids=["empty", "mixed", "too-many", "negative-id", "large-id"],
)
def test_unusable_prompts_are_refused_with_the_fields_name(prompt: list[PromptItem]) -> None:
    with pytest.raises(ApiError) as refusal:
        read_prompts(prompt, param="prompt")

    assert (refusal.value.status, refusal.value.param) == (400, "prompt")


def test_a_conversation_that_goes_on_keeps_its_tokens() -> None:
    question = [Message(role="system", content="be short"), Message(role="user", content=[Part(text="hello")])]
    answer = "".join(map(aligned_text, range(1, 1201)))
    more = [*question, Message(role="assistant", content=answer), Message(role="user", content="and?")]

    assert message_ids(more) == message_ids(question) + aligned_ids(1200) + text_ids("and?")
