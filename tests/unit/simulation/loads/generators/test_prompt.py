"""Blocks of prompts made of pieces, against a prompt that is spelled out token by token."""

from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.simulation.loads.generators.prompt import Prompt, beginnings

Pieces = list[tuple[int, int]]

pieces = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([1, 2, 510, 511, 512, 513, 1024, 1500]) | st.integers(1, 1600)),
    max_size=6,
)


def prompt_of(parts: Pieces) -> Prompt:
    prompt = Prompt()
    for content, tokens in parts:
        prompt.add(content, tokens)
    return prompt


def spelled(parts: Pieces) -> list[tuple[int, int]]:
    return [(content, place) for content, tokens in parts for place in range(tokens)]


@settings(deadline=None)
@given(pieces)
def test_there_is_a_hash_for_every_begun_block(parts: Pieces) -> None:
    prompt = prompt_of(parts)
    assert prompt.tokens == len(spelled(parts))
    assert len(prompt.blocks()) == -(-prompt.tokens // 512)


@settings(deadline=None)
@given(pieces, pieces, pieces)
def test_hashes_are_equal_exactly_as_far_as_the_tokens_are(shared: Pieces, one: Pieces, other: Pieces) -> None:
    first, second = prompt_of(shared + one).blocks().tolist(), prompt_of(shared + other).blocks().tolist()
    left, right = spelled(shared + one), spelled(shared + other)
    for place, (a, b) in enumerate(zip(first, second, strict=False)):
        assert (a == b) == (left[: (place + 1) * 512] == right[: (place + 1) * 512])
    assert not set(first) & set(second[len(first) :])


@settings(deadline=None)
@given(pieces, pieces)
def test_a_prompt_that_grows_keeps_its_whole_blocks_and_no_others(start: Pieces, more: Pieces) -> None:
    prompt = prompt_of(start)
    before, tokens = prompt.blocks(), prompt.tokens
    for content, count in more:
        prompt.add(content, count)
    after = prompt.blocks()
    whole = tokens // 512
    assert before[:whole].tolist() == after[:whole].tolist()
    if more:
        assert not set(before[whole:].tolist()) & set(after.tolist())
    assert after.tolist() == prompt_of(start + more).blocks().tolist()


@settings(deadline=None)
@given(pieces, pieces, pieces)
def test_a_copy_grows_by_itself(start: Pieces, one: Pieces, other: Pieces) -> None:
    first = prompt_of(start)
    second = first.copy()
    for prompt, parts in ((first, one), (second, other)):
        for content, tokens in parts:
            prompt.add(content, tokens)
    assert first.blocks().tolist() == prompt_of(start + one).blocks().tolist()
    assert second.blocks().tolist() == prompt_of(start + other).blocks().tolist()


def test_beginnings_have_contents_of_their_own() -> None:
    prompts = beginnings([600, 600, 5], first_content=1)
    assert [prompt.tokens for prompt in prompts] == [600, 600, 5]
    assert prompts[1].blocks().tolist() == prompt_of([(2, 600)]).blocks().tolist()
    assert len({int(prompt.blocks()[0]) for prompt in prompts}) == 3
