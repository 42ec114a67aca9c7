import pytest

from workers.simulated.api.base import PromptItem, count_prompts, count_tokens, token_ids
from workers.simulated.errors import ApiError


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("é", 1), ("éééé", 2)])
def test_a_token_is_four_bytes_of_utf8(text: str, tokens: int) -> None:
    assert count_tokens(text) == tokens
    assert len(token_ids(text)) == tokens


def test_equal_prefixes_have_equal_tokens() -> None:
    assert token_ids("abcdefgh-one")[:2] == token_ids("abcdefgh-two")[:2]
    assert token_ids("abcd") == [int.from_bytes(b"abcd", "little")]


@pytest.mark.parametrize(
    ("prompt", "counts"),
    [
        ("abcdefgh", [2]),
        (["abcd", "abcdefgh"], [1, 2]),
        ([7, 8, 9], [3]),
        ([[7, 8], [9]], [2, 1]),
    ],
    ids=["text", "texts", "ids", "lists-of-ids"],
)
def test_prompts_are_counted_in_every_shape(prompt: str | list[PromptItem], counts: list[int]) -> None:
    assert count_prompts(prompt, param="prompt") == counts


@pytest.mark.parametrize("prompt", [[], ["text", 7], ["x"] * 2049], ids=["empty", "mixed", "too-many"])
def test_unusable_prompts_are_refused_with_the_fields_name(prompt: list[PromptItem]) -> None:
    with pytest.raises(ApiError) as refusal:
        count_prompts(prompt, param="prompt")

    assert (refusal.value.status, refusal.value.param) == (400, "prompt")
