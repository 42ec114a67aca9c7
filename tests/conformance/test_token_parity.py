"""The ids of prompts against those of the `transformers` library: every kind of tokenizer, with and without a cache.

Each prompt is read by a reader with a token store and by one without, and both must give what the library's
``AutoTokenizer`` gives, whatever was read before: nothing, the same prompt, a part of it, or other prompts.
"""

import asyncio
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extproc.api.prompt_input import ChatInput
from extproc.errors import InvalidRequest
from extproc.models.model import Model
from extproc.prompt.conversation import to_conversation
from extproc.tokens.prompt_tokens import PromptTokens
from tests.support.models import GOOD_KINDS, added_tokens, conversations, random_texts, texts
from tests.support.readers import CHAT, Reading, make_spec, parse
from tests.support.stores import make_segment, open_store

os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it would advise to install PyTorch
from transformers import AutoTokenizer

COMPLETIONS = "/v1/completions"
STORE_BYTES = 64 << 20
LONG = 100_000
WITHOUT_TOOLS = ("gemma", "wordpiece", "unigram", "normalized_special")
CUT_IN_EVERY_PROMPT = (
    "llama3", "qwen", "qwen3", "deepseek", "metaspace_always", "llama2_legacy", "gemma", "wordpiece", "unigram",
    "prefix_space", "tiktoken",
)  # fmt: skip
"""The kinds whose templates write a safe boundary into whatever they render."""
ALTERNATING = ("mistral_metaspace", "metaspace_always", "llama2_legacy", "gemma")
"""The kinds whose templates refuse roles that do not take turns."""
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Look <|im_end|> up 日本.",
            "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
        },
    }
]

unhurried = settings(deadline=None, max_examples=12, suppress_health_check=list(HealthCheck))
kinds = pytest.mark.parametrize("kind", GOOD_KINDS)
Messages = list[dict[str, Any]]


class Sides(NamedTuple):
    """One kind of model as it is read with a store, without one, and by the library."""

    kind: str
    tokens: Sequence[str]
    cached: Reading
    plain: Reading
    theirs: Any
    numbers: Iterator[int]

    def salt(self) -> str:
        """A salt that no prompt was read with before, so that nothing is cached under it."""
        return f"salt {next(self.numbers)}"

    def chats(self, *, parts: bool = True) -> st.SearchStrategy[Messages]:
        strategy = conversations(self.tokens, parts=parts, tools=self.kind not in WITHOUT_TOOLS)
        return strategy.map(with_arguments_as_text)

    def expected(self, messages: Messages, fields: Mapping[str, Any]) -> list[int]:
        """The library's ids of our conversation."""
        prompt = parse(CHAT, model=self.kind, messages=messages, **fields).prompt_input()
        assert isinstance(prompt, ChatInput)
        templates = loaded(self.plain, self.kind).templates
        content_format = templates.format_of(templates.select(tools=prompt.tools is not None))
        conversation = to_conversation(prompt.messages, content_format=content_format).messages
        ids: list[int] = self.theirs.apply_chat_template(
            conversation, tools=prompt.tools, add_generation_prompt=True, return_dict=False, **prompt.kwargs
        )
        return ids

    def fields(self, *, tools: bool) -> dict[str, Any]:
        """The fields of a chat besides its messages; the date is given, so that no test runs over midnight."""
        fields: dict[str, Any] = {"chat_template_kwargs": {"date_string": "3 Feb 2025"}}
        return fields | ({"tools": TOOLS} if tools and self.kind not in WITHOUT_TOOLS else {})

    def check_chat(self, messages: Messages, fields: Mapping[str, Any]) -> PromptTokens:
        """Read a chat on all sides, and return what the reader with the store made of it."""
        found = self.cached.chat(self.kind, messages, **fields)
        assert_same(found, self.plain.chat(self.kind, messages, **fields))
        assert found.ids.tolist() == self.expected(messages, fields)
        return found


def loaded(reading: Reading, kind: str) -> Model:
    shelved = reading.shelf.find(kind)
    assert shelved is not None
    assert shelved.model is not None
    return shelved.model


def assert_same(found: PromptTokens, plain: PromptTokens) -> None:
    assert plain.cache == "off"
    np.testing.assert_array_equal(found.ids, plain.ids)
    np.testing.assert_array_equal(found.block_hashes, plain.block_hashes)
    assert (found.block_size, found.root, found.exact) == (plain.block_size, plain.root, plain.exact)
    assert len(found.block_hashes) == len(found.ids) // found.block_size


def with_arguments_as_text(messages: Messages) -> Messages:
    """Write the arguments of tool calls as JSON text, as clients do."""
    for message in messages:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    return messages


def growing(messages: Messages) -> list[Messages]:
    """The conversation as it was after each question."""
    return [messages[: end + 1] for end, message in enumerate(messages) if message["role"] == "user"]


@pytest.fixture(scope="module")
def sides_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Sides]]:
    directory = tmp_path_factory.mktemp("models")
    segment = make_segment(STORE_BYTES)
    store = open_store(segment)
    known: dict[str, Sides] = {}

    def sides(kind: str) -> Sides:
        if kind == "tiktoken":
            pytest.importorskip("tiktoken", reason="transformers reads tiktoken files with the tiktoken package")
        if kind not in known:
            spec = make_spec(directory, kind)
            # Any beginning is used, however short, as prompts of tests are.
            cached = Reading(spec, store=store, max_wait_secs=100.0, min_prefix_bytes=0)
            plain = Reading(spec, max_wait_secs=100.0)
            tokens = added_tokens(Path(spec.source))
            theirs = AutoTokenizer.from_pretrained(spec.source)
            known[kind] = Sides(kind, tokens, cached, plain, theirs, itertools.count())
        return known[kind]

    yield sides
    for one in known.values():
        one.cached.reader.close()
        one.plain.reader.close()


@kinds
def test_chats_have_the_librarys_ids_the_first_time_and_again(kind: str, sides_of: Callable[[str], Sides]) -> None:
    sides = sides_of(kind)

    @unhurried
    @given(sides.chats(), st.booleans())
    def check(messages: Messages, tools: bool) -> None:
        fields = sides.fields(tools=tools) | {"cache_salt": sides.salt()}
        assert sides.check_chat(messages, fields).cache == "miss"
        assert sides.check_chat(messages, fields).cache == "level_0"

    check()


@kinds
def test_chats_that_grow_turn_by_turn_have_the_librarys_ids(kind: str, sides_of: Callable[[str], Sides]) -> None:
    sides = sides_of(kind)

    @unhurried
    @given(sides.chats(), st.booleans())
    def check(messages: Messages, tools: bool) -> None:
        fields = sides.fields(tools=tools) | {"cache_salt": sides.salt()}
        first, *grown = growing(messages)
        sides.check_chat(first, fields)
        for longer in grown:
            found = sides.check_chat(longer, fields)
            assert found.cache == ("level_1" if kind in CUT_IN_EVERY_PROMPT else found.cache)
            assert bool(found.reused_tokens) == (found.cache == "level_1")

    check()
    assert loaded(sides.cached, kind).cache.mismatched_boundaries == 0


@kinds
def test_chats_read_in_any_order_among_others_have_the_librarys_ids(
    kind: str, sides_of: Callable[[str], Sides]
) -> None:
    sides = sides_of(kind)

    @settings(unhurried, max_examples=6)
    @given(st.data(), st.lists(sides.chats(), min_size=2, max_size=3))
    def check(data: st.DataObject, chats: list[Messages]) -> None:
        prompts = [prompt for messages in chats for prompt in growing(messages)]
        # No salt: examples meet what was left by the ones before.
        for messages in data.draw(st.permutations(prompts)):
            sides.check_chat(messages, sides.fields(tools=False))

    check()


@kinds
@pytest.mark.parametrize("special", [True, False])
def test_completions_have_the_librarys_ids_alone_and_grown(
    kind: str, special: bool, sides_of: Callable[[str], Sides]
) -> None:
    sides = sides_of(kind)

    @unhurried
    @given(st.lists(texts(sides.tokens), min_size=1, max_size=3))
    def check(pieces: list[str]) -> None:
        fields = {"add_special_tokens": special, "cache_salt": sides.salt()}
        text = ""
        for piece in pieces:
            text += piece
            expected = sides.theirs(text, add_special_tokens=special)["input_ids"]
            (plain,) = sides.plain.read(kind, COMPLETIONS, prompt=text, **fields)
            (found,) = sides.cached.read(kind, COMPLETIONS, prompt=text, **fields)
            (again,) = sides.cached.read(kind, COMPLETIONS, prompt=text, **fields)
            for one in (found, again):
                assert_same(one, plain)
                assert one.ids.tolist() == expected
            assert again.cache == ("level_0" if expected else "miss")

    check()


@kinds
def test_completions_with_and_without_special_tokens_do_not_share_prefixes(
    kind: str, sides_of: Callable[[str], Sides]
) -> None:
    sides = sides_of(kind)
    salt = sides.salt()
    for special in (True, False):
        text = ""
        for token in sides.tokens:
            text += f"a {token}"
            for prompt in (text, f"{text} more"):  # the first ends with a token, and begins all that follow
                fields = {"add_special_tokens": special, "cache_salt": salt}
                (found,) = sides.cached.read(kind, COMPLETIONS, prompt=prompt, **fields)
                assert found.ids.tolist() == sides.theirs(prompt, add_special_tokens=special)["input_ids"]


@kinds
def test_several_completions_of_one_request_have_the_librarys_ids(kind: str, sides_of: Callable[[str], Sides]) -> None:
    sides = sides_of(kind)
    prompts = ["", *random_texts(sides.tokens, count=5)]
    for _ in range(2):
        found = sides.cached.read(kind, COMPLETIONS, prompt=prompts)
        assert [one.ids.tolist() for one in found] == sides.theirs(prompts)["input_ids"]


@kinds
async def test_prompts_of_a_hundred_thousand_characters_have_the_librarys_ids(
    kind: str, sides_of: Callable[[str], Sides]
) -> None:
    sides = sides_of(kind)
    text = "".join(random_texts(sides.tokens, count=LONG // 20, pieces=30))[:LONG]
    assert len(text) == LONG
    messages: Messages = [{"role": "user", "content": text}]
    longer = [*messages, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "?"}]
    fields = sides.fields(tools=False) | {"cache_salt": sides.salt()}

    async def read(reading: Reading, messages: Messages) -> PromptTokens:
        prompts = reading.reader.read(parse(CHAT, model=kind, messages=messages, **fields), kind)
        (prompt,) = await prompts if isinstance(prompts, asyncio.Future) else prompts
        return prompt

    for prompt, cache in ((messages, "miss"), (longer, "level_1"), (longer, "level_0")):
        found = await read(sides.cached, prompt)
        assert_same(found, await read(sides.plain, prompt))
        assert found.ids.tolist() == sides.expected(prompt, fields)
        assert found.cache == (cache if loaded(sides.cached, kind).uses_prefixes or cache == "level_0" else "miss")


@kinds
def test_special_tokens_that_a_user_types_are_encoded_as_the_library_does(
    kind: str, sides_of: Callable[[str], Sides]
) -> None:
    sides = sides_of(kind)
    fields = sides.fields(tools=False)
    for token in sides.tokens:
        typed = f"a{token} b {token}{token}\n{token[:-1]} {token[1:]}{token}"
        found = sides.check_chat([{"role": "user", "content": typed}], fields)
        if token.strip() and kind != "overlapping":
            assert np.count_nonzero(found.ids == sides.theirs.convert_tokens_to_ids(token)) >= 4


@kinds
def test_what_the_librarys_template_refuses_is_refused(kind: str, sides_of: Callable[[str], Sides]) -> None:
    sides = sides_of(kind)
    refused: set[bool] = set()

    @unhurried
    @given(st.data(), sides.chats(parts=False))
    def check(data: st.DataObject, messages: Messages) -> None:
        shuffled = data.draw(st.permutations(messages))
        fields = sides.fields(tools=False)
        try:
            expected = sides.expected(shuffled, fields)
        except Exception:  # noqa: BLE001 - a template raises what it likes
            refused.add(True)
            for reading in (sides.cached, sides.plain):
                with pytest.raises(InvalidRequest):
                    reading.chat(kind, shuffled, **fields)
        else:
            refused.add(False)
            assert sides.cached.chat(kind, shuffled, **fields).ids.tolist() == expected

    check()
    assert refused == ({True, False} if kind in ALTERNATING else refused)


@kinds
def test_half_a_surrogate_pair_is_refused_on_both_sides(kind: str, sides_of: Callable[[str], Sides]) -> None:
    sides = sides_of(kind)
    with pytest.raises((TypeError, UnicodeEncodeError)):
        sides.theirs("a\ud800b")
    for reading in (sides.cached, sides.plain):
        with pytest.raises(InvalidRequest):
            reading.read(kind, COMPLETIONS, prompt="a\ud800b")
        with pytest.raises(InvalidRequest):
            reading.chat(kind, [{"role": "user", "content": "a\ud800b"}])
