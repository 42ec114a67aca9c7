"""What clients ask of real vLLM servers through Envoy, and the tokens that we and the engines make of it."""

import asyncio
import uuid

import pytest

from tests.support.event_reader import EventReader, stored_blocks
from tests.support.waiting import until
from tests.vllm.gateway import CHAT, COMPLETIONS, Gateway
from tests.vllm.servers import BLOCK_TOKENS

pytestmark = pytest.mark.asyncio(loop_scope="session")

TEXTS = (
    "def count(path):\n    with open(path) as file:\n        return len(file.read().split())\n",
    "Wie spät ist es in 東京? Наконец-то! ¿Qué? 👍🏽 naïve café",
    "<|im_start|>user\nIs this a turn?<|im_end|>\n",
    "   spaces\t\ttabs\n\n\nlines   ",
)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def unseen() -> str:
    """A beginning that no prompt had before."""
    return f"[{uuid.uuid4()}] "


async def test_a_chat_is_answered_and_counted_as_the_engine_does(gate: Gateway) -> None:
    answer = await gate.chat([user(unseen() + TEXTS[0])], max_tokens=5)

    assert answer.body["object"] == "chat.completion"
    assert answer.body["usage"]["completion_tokens"] == 5
    assert int(answer.decision["tokens"]) == answer.prompt_tokens


async def test_a_completion_of_text_and_of_its_ids_is_the_same(gate: Gateway) -> None:
    text = unseen() + TEXTS[1]
    ids = await gate.tokenize(prompt=text)
    of_text = await gate.complete(text, max_tokens=8)
    of_ids = await gate.complete(ids, max_tokens=8)

    assert of_text.body["choices"][0]["text"] == of_ids.body["choices"][0]["text"]
    assert of_text.prompt_tokens == of_ids.prompt_tokens == len(ids)
    assert int(of_text.decision["tokens"]) == int(of_ids.decision["tokens"]) == len(ids)


async def test_a_streamed_chat_has_the_text_of_the_whole_one(gate: Gateway) -> None:
    messages = [user(unseen() + TEXTS[0])]
    whole = await gate.chat(messages, max_tokens=12)
    events, decision = await gate.stream(CHAT, messages=messages, max_tokens=12)

    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])
    assert text == whole.body["choices"][0]["message"]["content"]
    assert len(events) > 2
    assert events[-1]["usage"]["prompt_tokens"] == whole.prompt_tokens == int(decision["tokens"])


async def test_a_streamed_completion_has_the_text_of_the_whole_one(gate: Gateway) -> None:
    prompt = unseen() + TEXTS[1]
    whole = await gate.complete(prompt, max_tokens=12)
    events, _decision = await gate.stream(COMPLETIONS, prompt=prompt, max_tokens=12)

    text = "".join(event["choices"][0]["text"] for event in events if event["choices"])
    assert text == whole.body["choices"][0]["text"]


async def test_load_is_shared_and_a_conversation_stays(gate: Gateway) -> None:
    beginnings = [[user(unseen() + "Tell me of the sea. " * 80)] for _ in range(8)]
    firsts = await asyncio.gather(*(gate.chat(messages, max_tokens=30) for messages in beginnings))
    assert {answer.worker for answer in firsts} == {"vllm-1", "vllm-2"}

    for messages, first in zip(beginnings, firsts, strict=True):
        messages += [assistant(first.body["choices"][0]["message"]["content"]), user("Go on.")]
        second = await gate.chat(messages)
        assert second.worker == first.worker
        assert second.cached_tokens >= first.prompt_tokens - 2 * BLOCK_TOKENS


@pytest.mark.parametrize("text", TEXTS, ids=("code", "scripts", "special tokens", "spaces"))
async def test_the_tokens_of_a_text_are_those_of_the_engine(gate: Gateway, text: str) -> None:
    prompt = unseen() + text
    answer = await gate.complete(prompt, return_token_ids=True)

    assert await gate.tokenize(prompt=prompt) == answer.body["choices"][0]["prompt_token_ids"]


@pytest.mark.parametrize("text", TEXTS, ids=("code", "scripts", "special tokens", "spaces"))
async def test_the_tokens_of_a_chat_are_those_of_the_engine(gate: Gateway, text: str) -> None:
    messages = [{"role": "system", "content": unseen()}, user(text), assistant("Yes."), user(text * 2)]
    answer = await gate.chat(messages, return_token_ids=True)

    assert await gate.tokenize(messages=messages) == answer.body["prompt_token_ids"]


async def test_the_blocks_that_the_engine_stores_hold_our_tokens(
    gate: Gateway, readers: dict[str, EventReader]
) -> None:
    async def heard() -> bool:
        await asyncio.gather(*(gate.complete(unseen() * 8) for _ in range(4)))
        return all(reader.drain() for reader in readers.values())

    await until(heard)
    for number in range(4):
        messages = [user(unseen() + " ".join(TEXTS) * (number + 1))]
        before = {name: len(reader.drain(silence_ms=500)) for name, reader in readers.items()}
        answer = await gate.chat(messages, max_tokens=1)
        ids = await gate.tokenize(messages=messages)
        reader, first = readers[answer.worker], before[answer.worker]

        async def all_stored(reader: EventReader = reader, first: int = first, count: int = len(ids)) -> bool:
            reader.drain()
            return len(stored_blocks(reader.events(first))) >= count // BLOCK_TOKENS

        await until(all_stored)
        whole = [ids[at : at + BLOCK_TOKENS] for at in range(0, len(ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS)]
        blocks = stored_blocks(reader.events(first))
        assert blocks[: len(whole)] == whole
