"""What changes while requests are tokenized: models, their files, routers that die; and settings that turn it down."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from extproc.telemetry.tasks import spawn
from tests.support.deployment import Deployment, deployment
from tests.support.models import make_model
from tests.support.token_clients import (
    CHAT,
    Message,
    Reference,
    Reply,
    TokenClient,
    assistant,
    both_ready,
    serving,
    user,
)
from tests.support.waiting import until

pytestmark = pytest.mark.e2e

QUICK: dict[str, Any] = {
    "fleet": {"reload_interval_secs": 0.05},
    "tokens": {"reload_interval_secs": 0.05},
    "supervisor": {"restart_backoff_secs": 0},
}
WORKER = serving("qwen", "other", "gemma", "nickname")
CLIENTS = 6
TURNS = 6
KILLS = 4
FEWEST_REQUESTS = 200
MODELS = {"qwen": "qwen", "other": "llama3", "gemma": "gemma"}
EXTRA = "{{ '<|im_start|>system\\nOne sentence more than before.<|im_end|>\\n' }}"

Turns = Sequence[tuple[list[Message], int]]
"""A growing conversation: the messages of each request and the number of their tokens."""


@asynccontextmanager
async def tokenizing(tmp_path: Path, *sources: Path, **config: Any) -> AsyncIterator[tuple[Deployment, TokenClient]]:  # noqa: ANN401
    """Run two routers with a model for each directory, called by its name."""
    models = [{"name": source.name, "source": str(source)} for source in sources]
    everything = {**QUICK, "models": models, **config}
    async with (
        deployment(tmp_path, config=everything, models=(), worker_flags=WORKER) as deployed,
        TokenClient.open(deployed.envoy.url) as client,
    ):
        await until(lambda: both_ready(deployed))
        yield deployed, client


def growing(reference: Reference, number: int) -> Turns:
    """A conversation that no other number has."""
    messages = [user(f"{number}: {'Tell me of the sea. ' * 40}")]
    found = []
    for turn in range(TURNS):
        found.append((list(messages), reference.chat(messages)))
        messages += [assistant(f"It is {turn} miles wide. " * 30), user(f"And {turn} miles deep? " * 10)]
    return found


class Talkers:
    """Clients that go through conversations again and again, each turn after the one before, and keep what is wrong."""

    def __init__(self, client: TokenClient, model: str, conversations: Sequence[Turns]) -> None:
        self.wrong: Counter[str] = Counter()
        self.caches: Counter[str | None] = Counter()
        self.total = 0
        self._client = client
        self._model = model
        self._conversations = conversations
        self._stopping = False

    @asynccontextmanager
    async def talking(self) -> AsyncIterator[None]:
        """Talk during the block."""
        task = spawn(self._all(), name="talkers")
        try:
            yield
        finally:
            self._stopping = True
            await task

    async def _all(self) -> None:
        await asyncio.gather(*(self._one(index) for index in range(CLIENTS)))

    async def _one(self, index: int) -> None:
        while not self._stopping:
            for messages, expected in self._conversations[index % len(self._conversations)]:
                try:
                    self._take(await self._client.chat(self._model, messages), expected)
                except (aiohttp.ClientError, TimeoutError) as error:
                    self.wrong[type(error).__name__] += 1
            index += 1

    def _take(self, reply: Reply, expected: int) -> None:
        self.total += 1
        self.caches[reply.cache] += 1
        if reply.status != 200:
            self.wrong[f"status {reply.status}"] += 1
        elif reply.worker and reply.tokens != expected:
            self.wrong[f"{reply.tokens} tokens"] += 1


async def loads(deployed: Deployment, model: str) -> float:
    return await deployed.service.metric("extproc_model_loads_total", model=model)


async def nothing_in_flight(deployed: Deployment) -> bool:
    streams = await deployed.service.metric("extproc_streams_active")
    return streams == 0 and not any(worker["in_flight"] for worker in await deployed.service.workers())


async def test_changed_models_and_templates_are_taken_over_under_load_and_nothing_else_is_loaded_again(
    tmp_path: Path,
) -> None:
    qwen, other, gemma = (make_model(tmp_path / name, kind) for name, kind in MODELS.items())
    before, steady = Reference(qwen), Reference(other)
    probe = [user("What has changed?")]
    conversations = [growing(steady, number) for number in range(CLIENTS)]
    async with tokenizing(tmp_path, qwen, other) as (deployed, client):
        routers = await deployed.service.pids("router")

        async def everywhere(model: str, count: int | None) -> bool:
            """Whether a number of replies in a row, enough to come from both routers, agree."""
            return all([(await client.chat(model, probe)).tokens == count for _ in range(6)])

        assert await everywhere("qwen", before.chat(probe))
        assert await everywhere("gemma", None)
        assert await everywhere("nickname", None)
        assert (await loads(deployed, "qwen"), await loads(deployed, "other")) == (2, 2)
        talkers = Talkers(client, "other", conversations)
        async with talkers.talking():
            models = deployed.service.config["models"]
            models[0] = {**models[0], "aliases": ["nickname"]}
            models.append({"name": "gemma", "source": str(gemma)})
            deployed.service.write_config()
            await until(lambda: everywhere("gemma", Reference(gemma).chat(probe)))
            await until(lambda: everywhere("nickname", before.chat(probe)))

            template = qwen / "chat_template.jinja"
            template.write_text(EXTRA + template.read_text())
            after = Reference(qwen)
            assert after.chat(probe) > before.chat(probe)
            await until(lambda: everywhere("qwen", after.chat(probe)))
            await until(lambda: everywhere("nickname", after.chat(probe)))

            (qwen / "tokenizer.json").write_text("{")
            await until(lambda: noticed(deployed, "qwen"))
            assert await everywhere("qwen", after.chat(probe))

            del models[0]
            deployed.service.write_config()
            await until(lambda: everywhere("qwen", None))
        assert talkers.wrong == {}
        assert talkers.total > FEWEST_REQUESTS
        assert set(talkers.caches) <= {"miss", "level_0", "level_1"}
        assert await loads(deployed, "other") == 2
        assert await loads(deployed, "gemma") == 2
        assert await deployed.service.pids("router") == routers


async def test_routers_killed_while_they_fill_the_cache_cost_no_request_and_leave_it_right(tmp_path: Path) -> None:
    qwen = make_model(tmp_path / "qwen", "qwen")
    reference = Reference(qwen)
    conversations = [growing(reference, number) for number in range(2 * CLIENTS)]
    async with tokenizing(tmp_path, qwen) as (deployed, client), TokenClient.open(deployed.service.admin_url) as admin:

        async def replaced() -> bool:
            """Whether Envoy uses two routers again: the one that is killed next must not be its only one."""
            rows = [row for row in await deployed.service.processes() if row["role"] == "router"]
            return len(rows) == 2 and all(row["pid"] != killed and row["streams_total"] for row in rows)

        talkers = Talkers(client, "qwen", conversations)
        async with talkers.talking():
            for kill in range(KILLS):
                killed = (await deployed.service.pids("router"))[kill % 2]
                # What is known is stored anew, so that the router is killed among writers.
                assert (await admin.post("/caches/flush")).status == 200
                os.kill(killed, signal.SIGKILL)
                await until(replaced)
        assert talkers.wrong == {}
        assert talkers.total > FEWEST_REQUESTS
        assert talkers.caches["level_1"] > 0
        for turns in conversations:
            for messages, expected in turns:
                replies = [await client.chat("qwen", messages) for _ in range(3)]
                assert [reply.tokens for reply in replies] == [expected] * 3
                assert [reply.cache for reply in replies[1:]] == ["level_0"] * 2
        await until(lambda: nothing_in_flight(deployed))
        assert await deployed.service.metric("extproc_process_restarts_total", role="router") == KILLS
        assert await deployed.service.metric("extproc_prefix_verifications_total", result="mismatch") == 0


async def noticed(deployed: Deployment, model: str) -> bool:
    return await deployed.service.metric("extproc_model_loads_total", model=model, reason="unusable") == 2


async def test_a_prompt_that_takes_too_long_goes_on_without_tokens(tmp_path: Path) -> None:
    """What is long is encoded on a thread, and only what is on a thread can be waited for in vain."""
    qwen = make_model(tmp_path / "qwen", "qwen")
    async with tokenizing(tmp_path, qwen, tokens={"max_wait_secs": 0.001}) as (deployed, client):
        long = await client.chat("qwen", [user("word " * 60_000)])
        assert (long.status, long.tokens, bool(long.worker)) == (200, None, True)
        await until(lambda: timed_out(deployed))
        short = [user("word " * 50)]
        assert (await client.chat("qwen", short)).tokens == Reference(qwen).chat(short)


async def timed_out(deployed: Deployment) -> bool:
    return await deployed.service.metric("extproc_fallbacks_total", reason="encode_timeout") == 1


async def test_tokens_that_no_policy_needs_are_not_made_and_no_body_is_read(tmp_path: Path) -> None:
    qwen = make_model(tmp_path / "qwen", "qwen")
    async with tokenizing(tmp_path, qwen, tokens={"when": "needed"}) as (deployed, client):
        plain = await client.chat("qwen", [user("Hello")])
        assert (plain.status, plain.tokens, bool(plain.worker)) == (200, None, True)
        # A router that reads it refuses what the worker, after a decision by headers alone, refuses here.
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{deployed.envoy.url}{CHAT}", data=b"nonsense") as response,
        ):
            assert response.status == 400
            assert "x-worker" in response.headers
            assert "x-extproc-reason" not in response.headers
        assert (await deployed.service.admin("/caches"))["token_cache"]["rows"] == 0
