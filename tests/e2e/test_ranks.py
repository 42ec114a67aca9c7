"""Data parallel ranks behind real Envoys: each is chosen by itself, and a request names its rank to who serves it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.deployment import MODEL, Deployment, data_plane
from tests.support.service import Service
from tests.support.simulated_worker import SimulatedWorker
from tests.support.token_clients import Reply, TokenClient, assistant, user
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

PROFILE = """
step:
  base_secs: 0.001
  prefill_token_secs: 0.00001
block_size: 16
kv_cache_tokens: 65536
"""
RANK_HEADER = "x-data-parallel-rank"
UNWATCHED: dict[str, Any] = {"fleet": {"health_interval_secs": 600.0, "breaker_failures": 0}}
"""Nothing but the request itself tells that a server is dead."""


@asynccontextmanager
async def ranked(directory: Path, *sizes: int, config: dict[str, Any]) -> AsyncIterator[Deployment]:
    """Servers ``s0``, ``s1`` ... with so many ranks each, the service and one Envoy."""
    profile = directory / "profile.yaml"
    profile.write_text(PROFILE)
    async with AsyncExitStack() as stack:
        running, listed = [], []
        for number, size in enumerate(sizes):
            flags = ("--profile", str(profile), "--model", MODEL, "--data-parallel-size", str(size))
            server = await asyncio.to_thread(SimulatedWorker.start, *flags)
            stack.push_async_callback(asyncio.to_thread, server.stop)
            running.append(server)
            listed.append({"id": f"s{number}", "address": server.address, "data_parallel_size": size})
        routing = {"decision_header": True, **config.get("routing", {})}
        service = Service(directory=directory, config={**config, "workers": listed, "routing": routing})
        await stack.enter_async_context(service)
        envoy = await stack.enter_async_context(data_plane(service))
        yield Deployment(running, service, envoy)


def by_rank(server: SimulatedWorker, name: str) -> dict[str, float]:
    """The values of a server's metric by rank, where there are any."""
    return {
        sample.labels["engine"]: sample.value
        for family in text_string_to_metric_families(server.metrics())
        for sample in family.samples
        if sample.name == name and sample.value
    }


def named_ranks(server: SimulatedWorker) -> list[str]:
    """The ranks that the last requests to a server have named, as they came."""
    shown = server.requests()["last"]
    return [value for one in shown for name, value in one["headers"] if name == RANK_HEADER]


def chosen(reply: Reply) -> str:
    """The worker that was chosen first, as the answer says."""
    return reply.headers["x-extproc-decision"].partition(";")[0].removeprefix("worker=")


def cached_tokens(reply: Reply) -> int:
    return int(reply.body["usage"]["prompt_tokens_details"]["cached_tokens"])


async def test_each_rank_is_chosen_in_its_turn_and_named_to_its_server(tmp_path: Path) -> None:
    async with (
        ranked(tmp_path, 2, 2, config={"routing": {"policy": "round_robin"}}) as deployed,
        TokenClient.open(deployed.envoy.url) as client,
    ):
        replies = [await client.chat(MODEL, [user("Hello")]) for _ in range(8)]
        assert [reply.status for reply in replies] == [200] * 8
        assert sorted(chosen(reply) for reply in replies) == sorted(["s0/0", "s0/1", "s1/0", "s1/1"] * 2)
        for server in deployed.workers:
            assert sorted(named_ranks(server)) == ["0", "0", "1", "1"]
            assert by_rank(server, "vllm:request_prompt_tokens_count") == {"0": 2.0, "1": 2.0}


async def test_a_conversation_stays_on_its_rank_and_finds_its_prefix_there(tmp_path: Path) -> None:
    async with (
        ranked(tmp_path, 2, 2, config={"routing": {"policy": "cache_aware"}}) as deployed,
        TokenClient.open(deployed.envoy.url) as client,
    ):
        servers = {f"s{number}": server for number, server in enumerate(deployed.workers)}
        for number in range(4):
            messages = [user(f"{number} is what it begins with. " * 60)]
            first = await client.chat(MODEL, messages)
            assert (first.status, cached_tokens(first)) == (200, 0)
            server, _, rank = chosen(first).partition("/")
            for turn in range(3):
                messages += [assistant(f"It is {turn}. " * 20), user(f"And {turn} more? " * 20)]
                before = by_rank(servers[server], "vllm:prefix_cache_hits_total")
                reply = await client.chat(MODEL, messages)
                hits = by_rank(servers[server], "vllm:prefix_cache_hits_total")
                assert (reply.status, chosen(reply)) == (200, chosen(first))
                assert cached_tokens(reply) > 300
                assert hits == {**before, rank: before.get(rank, 0.0) + cached_tokens(reply)}


async def test_the_rank_that_was_chosen_is_that_of_the_fall_back_too(tmp_path: Path) -> None:
    config = {"routing": {"policy": "round_robin"}, **UNWATCHED}
    async with ranked(tmp_path, 2, 3, config=config) as deployed, TokenClient.open(deployed.envoy.url) as client:
        dead, alive = deployed.workers
        await asyncio.to_thread(dead.kill)
        replies = [await client.chat(MODEL, [user("Hello")]) for _ in range(10)]
        assert [reply.status for reply in replies] == [200] * 10
        ranks = [chosen(reply).partition("/")[2] for reply in replies]
        assert {chosen(reply) for reply in replies} == {"s0/0", "s0/1", "s1/0", "s1/1", "s1/2"}
        assert named_ranks(alive) == ranks
        served = by_rank(alive, "vllm:request_prompt_tokens_count")
        assert served == {rank: ranks.count(rank) for rank in "012"}


async def test_a_rank_that_no_other_server_has_has_no_fall_back_of_ours(tmp_path: Path) -> None:
    """Once its server is dead, Envoy balances by itself, with the header: vLLM answers that it has no such rank."""
    config = {"routing": {"policy": "round_robin"}, **UNWATCHED}
    async with ranked(tmp_path, 2, 1, config=config) as deployed, TokenClient.open(deployed.envoy.url) as client:
        dead, alive = deployed.workers
        await asyncio.to_thread(dead.kill)
        replies = [await client.chat(MODEL, [user("Hello")]) for _ in range(9)]
        assert {(chosen(reply), reply.status) for reply in replies} == {("s0/0", 200), ("s0/1", 400), ("s1", 200)}
        (refused,) = {reply.body["error"]["message"] for reply in replies if reply.status == 400}
        assert refused == "data_parallel_rank 1 is out of range [0, 1)."
        assert sorted(named_ranks(alive)) == ["0"] * 3 + ["1"] * 3, "a request for s1 itself names no rank"


async def test_ranks_of_a_dead_server_are_all_taken_out_and_the_rest_serves(tmp_path: Path) -> None:
    async with (
        ranked(tmp_path, 2, 1, config={"routing": {"policy": "round_robin"}}) as deployed,
        TokenClient.open(deployed.envoy.url) as client,
    ):
        await asyncio.to_thread(deployed.workers[0].kill)

        async def is_out() -> bool:
            rows = {row["id"]: row["healthy"] for row in await deployed.service.workers()}
            return rows == {"s0/0": False, "s0/1": False, "s1": True}

        await until(is_out)
        replies = [await client.chat(MODEL, [user("Hello")]) for _ in range(4)]
        assert [(reply.status, chosen(reply)) for reply in replies] == [(200, "s1")] * 4


async def test_ranks_keep_their_slots_when_the_observer_is_replaced(tmp_path: Path) -> None:
    async with ranked(tmp_path, 2, 3, config={}) as deployed:
        before = {row["id"]: (row["slot"], row["rank"], row["ranks"]) for row in await deployed.service.workers()}
        assert {name: ranks[1:] for name, ranks in before.items()} == {
            "s0/0": (0, 2),
            "s0/1": (1, 2),
            "s1/0": (0, 3),
            "s1/1": (1, 3),
            "s1/2": (2, 3),
        }
        (observer,) = await deployed.service.pids("observer")
        os.kill(observer, signal.SIGKILL)

        async def is_replaced() -> bool:
            try:
                return await deployed.service.pids("observer") not in ([], [observer])
            except OSError:
                return False

        await until(is_replaced)
        rows = await deployed.service.workers()
        assert {row["id"]: (row["slot"], row["rank"], row["ranks"]) for row in rows} == before
        assert all(row["healthy"] and row["state"] == "active" for row in rows)
