"""Live traffic through Envoy and two routers becomes one trace, whatever happens to the routers meanwhile."""

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.support.deployment import Deployment, deployment
from tests.support.models import make_model
from tests.support.recordings import is_recording, recording, start_recording
from tests.support.token_clients import CHAT, both_ready, both_served, served, serving, user
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

SECRET = "my grandmother's maiden name"
SYSTEM = {"role": "system", "content": f"You know {SECRET}. " * 400}
QUESTIONS = ["Why is the sky blue? ", "Name three rivers. ", "What is a trace? "]
REQUESTS = 60
LONG = "30"
"""More seconds than a test takes: it ends its recording itself."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def deployed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    root = tmp_path_factory.mktemp("recording")
    directory = root / "parts"
    directory.mkdir()
    config = {
        "models": [{"name": "qwen", "source": str(make_model(root / "qwen", "qwen"))}],
        "recording": {"directory": str(directory), "max_bytes": 1 << 20},
        "routing": {"policy": "cache_aware", "decision_header": True},
        "supervisor": {"restart_backoff_secs": 0.05},
    }
    async with deployment(root, config=config, models=(), worker_flags=serving("qwen")) as running:
        await until(lambda: both_ready(running))
        yield running


class Client:
    """Asks questions in a long conversation."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def ask(self, number: int, *, stream: bool = False) -> int:
        """Ask one of the questions; returns the tokens that the router counted."""
        messages = [SYSTEM, user(QUESTIONS[number % len(QUESTIONS)] * 300)]
        body = {"model": "qwen", "messages": messages, "max_tokens": 1, "stream": stream}
        async with self._session.post(CHAT, json=body) as response:
            await response.read()
            assert response.status == 200
            found = re.search(r"tokens=(\d+)", response.headers["x-extproc-decision"])
        assert found is not None
        return int(found[1])


@pytest_asyncio.fixture(loop_scope="module")
async def client(deployed: Deployment) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession(deployed.envoy.url) as session:
        yield Client(session)


async def in_flight(deployed: Deployment, count: int) -> None:
    """Wait until so many requests are."""

    async def so_many() -> bool:
        return bool(sum(worker["in_flight"] for worker in await deployed.service.workers()) == count)

    await until(so_many)


def texts(raw: bytes) -> list[str]:
    """The words of the prompts that are in some bytes."""
    words = {word for text in (SECRET, *QUESTIONS) for word in text.split() if len(word) > 3}
    return [word for word in words if word.encode() in raw]


def parts(deployed: Deployment) -> list[Path]:
    return sorted(Path(deployed.service.config["recording"]["directory"]).iterdir())


async def test_every_request_of_both_routers_is_in_the_trace_in_order_and_no_text(
    deployed: Deployment, client: Client, tmp_path: Path
) -> None:
    await client.ask(0)
    before = [await served(deployed, index) for index in (0, 1)]
    async with recording(deployed.service, tmp_path / "trace.jsonl", "--secs", LONG) as running:
        tokens = [await client.ask(number, stream=number % 2 == 1) for number in range(REQUESTS)]
        await until(lambda: both_served(deployed, before))
        await in_flight(deployed, 0)
        assert await running.end() == 0
    await client.ask(1)
    lines = running.trace()
    assert [line["input_length"] for line in lines] == tokens
    assert {line["input_from"] for line in lines} == {"tokens"}
    assert {line["model"] for line in lines} == {"qwen"}
    assert {line["policy"] for line in lines} == {"cache_aware"}
    assert {line["worker"] for line in lines} <= {"w0", "w1", "w2"}
    assert [line["served"] for line in lines] == [line["worker"] for line in lines]
    assert {line["status"] for line in lines} == {200}
    assert all(line["ended_ms"] >= 0 for line in lines)
    assert {line["output_length"] for line in lines} == {1}
    assert {line["output_from"] for line in lines} <= {"time", "limit"}
    assert texts(running.out.read_bytes()) == []
    assert f"{REQUESTS} requests" in running.said
    assert running.out.stat().st_mode & 0o777 == 0o600
    assert parts(deployed) == []


async def test_equal_prefixes_have_equal_ids_whichever_router_saw_them(
    deployed: Deployment, client: Client, tmp_path: Path
) -> None:
    before = [await served(deployed, index) for index in (0, 1)]
    async with recording(deployed.service, tmp_path / "trace.jsonl", "--secs", LONG) as running:
        for number in range(REQUESTS):
            await client.ask(number)
        await until(lambda: both_served(deployed, before))
        assert await running.end() == 0
    ids = [line["hash_ids"] for line in running.trace()]
    by_question = [ids[number :: len(QUESTIONS)] for number in range(len(QUESTIONS))]
    assert all(same == group[0] for group in by_question for same in group)
    one, two, three = (group[0] for group in by_question)
    shared = sum(a == b for a, b in zip(one, two, strict=False))
    assert 3 <= shared < min(len(one), len(two))
    assert one[:shared] == two[:shared] == three[:shared]
    assert not set(one[shared:]) & set(two[shared:])


async def test_a_killed_router_loses_what_it_had_not_written_and_no_more(
    deployed: Deployment, client: Client, tmp_path: Path
) -> None:
    written = await deployed.service.metric("extproc_recorded_requests_total", result="written")
    async with recording(deployed.service, tmp_path / "trace.jsonl", "--secs", LONG) as running:
        for number in range(REQUESTS):
            await client.ask(number)

        async def all_written() -> bool:
            now = await deployed.service.metric("extproc_recorded_requests_total", result="written")
            return now - written >= REQUESTS

        await until(all_written)
        assert [texts(part.read_bytes()) for part in parts(deployed)] == [[], []]
        victim, other = await deployed.service.pids("router")
        os.kill(victim, signal.SIGKILL)

        async def replaced() -> bool:
            pids = await deployed.service.pids("router")
            return len(pids) == 2 and victim not in pids and other in pids

        await until(replaced)
        # As if it had been killed in the middle of writing.
        for part in parts(deployed):
            if part.name.endswith(f"-{victim}.part"):
                with part.open("ab") as file:
                    file.write(b"\x40\0\0\0half")
        for number in range(REQUESTS):
            await client.ask(number)
        assert await running.end() == 0
    assert len(running.trace()) == 2 * REQUESTS
    assert "1 router(s) ended before they had written everything" in running.said
    assert "1 half-written" in running.said


async def test_replacing_every_process_loses_nothing(deployed: Deployment, client: Client, tmp_path: Path) -> None:
    async with recording(deployed.service, tmp_path / "trace.jsonl", "--secs", LONG) as running:
        for number in range(REQUESTS):
            await client.ask(number)
        before = {process["pid"] for process in await deployed.service.processes() if process["role"] != "supervisor"}
        deployed.service.signal(signal.SIGHUP)

        async def replaced() -> bool:
            now = await deployed.service.processes()
            children = [process for process in now if process["role"] != "supervisor"]
            return len(children) == 3 and not before & {process["pid"] for process in children}

        await until(replaced)
        for number in range(REQUESTS):
            await client.ask(number)
        assert await running.end() == 0
    assert len(running.trace()) == 2 * REQUESTS
    assert "warning" not in running.said


async def test_it_ends_by_itself_when_the_time_is_over_or_the_command_is_dead(
    deployed: Deployment, client: Client, tmp_path: Path
) -> None:
    async with recording(deployed.service, tmp_path / "first.jsonl", "--secs", "1.5") as running:
        await client.ask(0)
        assert await running.wait() == 0
    assert len(running.trace()) == 1
    async with recording(deployed.service, tmp_path / "dead.jsonl", "--secs", "1.5") as running:
        await client.ask(0)
        running.kill()

        async def over() -> bool:
            status = await deployed.service.admin("/recording")
            return not status["secs_left"] and not status["unwritten"]

        await until(over)
    (left,) = parts(deployed)
    assert left.stat().st_mode & 0o777 == 0o600
    await client.ask(0)
    async with recording(deployed.service, tmp_path / "next.jsonl", "--secs", LONG) as running:
        await client.ask(0)
        assert await running.end() == 0
    assert len(running.trace()) == 1
    assert parts(deployed) == [left]
    left.unlink()


async def test_only_one_records_at_a_time(deployed: Deployment, client: Client, tmp_path: Path) -> None:
    async with recording(deployed.service, tmp_path / "first.jsonl", "--secs", LONG) as running:
        second = await start_recording(deployed.service, tmp_path / "second.jsonl")
        _, said = await second.communicate()
        assert (second.returncode, b"is under way" in said) == (3, True)
        assert await is_recording(deployed.service)
        await client.ask(0)
        assert await running.end() == 0
    assert os.listdir(tmp_path) == ["first.jsonl"]  # noqa: PTH208 - a look that does not block


async def test_what_is_under_way_at_the_end_has_no_end(deployed: Deployment, client: Client, tmp_path: Path) -> None:
    async with recording(deployed.service, tmp_path / "trace.jsonl", "--secs", LONG) as running:
        await client.ask(0)
        await in_flight(deployed, 0)
        address = deployed.address.split(":")
        _reader, writer = await asyncio.open_connection(address[0], int(address[1]))
        body = json.dumps({"model": "qwen", "messages": [user("Wait")], "max_tokens": 9}).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nhost: llm\r\ncontent-type: application/json\r\nx-sim-ttft-secs: 60\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        await in_flight(deployed, 1)
        assert await running.end() == 0
        writer.close()
    first, last = running.trace()
    assert first["ended_ms"] is not None
    assert (last["ended_ms"], last["status"], last["served"]) == (None, None, None)
    assert (last["output_length"], last["output_from"]) == (9, "limit")


async def test_the_bound_on_disk_holds_and_what_does_not_fit_is_counted(
    deployed: Deployment, client: Client, tmp_path: Path
) -> None:
    bound = 12_000
    async with recording(deployed.service, tmp_path / "t.jsonl", "--secs", LONG, "--max-bytes", str(bound)) as running:
        for number in range(2 * REQUESTS):
            await client.ask(number)

        async def is_full() -> bool:
            return await deployed.service.metric("extproc_recorded_requests_total", result="full") > 0

        await until(is_full)
        assert sum(path.stat().st_size for path in parts(deployed)) <= bound
        assert await running.end() == 0
    assert 0 < len(running.trace()) < 2 * REQUESTS
    assert running.out.stat().st_size <= bound
    assert "found no room and are left out" in running.said
