"""Where events are had: what is configured, and what servers tell."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from extproc.config.kv_events import KvEventsSettings
from extproc.fleet.worker import Worker
from extproc.kvevents.endpoints import Place, events_place, replay_address
from extproc.kvevents.sources import MAX_BODY_BYTES, EventSource, ask_models, ask_sources, configured_source


def worker(*, address: str = "10.0.0.1:8000", rank: int = 0, endpoint: str = "") -> Worker:
    return Worker(id="w", address=address, slot=0, rank=rank, kv_events_endpoint=endpoint)


def test_nothing_is_configured_by_default() -> None:
    assert configured_source(KvEventsSettings(), worker()) is None


def test_a_rank_adds_its_number_to_the_ports_and_names_are_filled_in() -> None:
    settings = KvEventsSettings(endpoint="tcp://{host}:5557", replay_endpoint="tcp://{host}:5657", topic="kv@{address}")
    expected = EventSource("tcp://10.0.0.1:5559", "tcp://10.0.0.1:5659", "kv@10.0.0.1:8000", 2)
    assert configured_source(settings, worker(rank=2)) == expected
    six = configured_source(settings, worker(address="[fd00::1]:8000"))
    assert six is not None
    assert six.endpoint == "tcp://[fd00::1]:5557"


def test_what_a_worker_says_of_itself_wins() -> None:
    settings = KvEventsSettings(endpoint="tcp://*:5557", topic="t")
    assert configured_source(settings, worker(endpoint="ipc:///run/kv")) == EventSource("ipc:///run/kv", "", "t", 0)


@pytest.mark.parametrize(
    ("endpoint", "host", "place"),
    [
        ("tcp://*:5557", "10.0.0.1", Place("tcp://10.0.0.1:5557", bind=False)),
        ("tcp://[::]:5557", "10.0.0.1", Place("tcp://10.0.0.1:5557", bind=False)),
        ("tcp://*:5557", "fd00::1", Place("tcp://[fd00::1]:5557", bind=False)),
        ("tcp://[fd00::1]:5557", "fd00::1", Place("tcp://[fd00::1]:5557", bind=False)),
        ("tcp://127.0.0.1:5600", "10.0.0.1", Place("tcp://127.0.0.1:5600", bind=True)),
        ("ipc:///run/kv", "127.0.0.1", Place("ipc:///run/kv", bind=False)),
    ],
)
def test_the_side_that_the_engine_does_not_bind_is_ours(endpoint: str, host: str, place: Place) -> None:
    assert events_place(endpoint, host=host) == place


@pytest.mark.parametrize("endpoint", ["ipc:///run/kv", "inproc://kv", "", "udp://*:1"])
def test_endpoints_that_cannot_be_reached_are_errors(endpoint: str) -> None:
    with pytest.raises(ValueError, match="is"):
        events_place(endpoint, host="10.0.0.1")


def test_the_endpoint_of_replays_is_always_the_engines() -> None:
    assert replay_address("tcp://0.0.0.0:5657", host="10.0.0.1") == "tcp://10.0.0.1:5657"


@contextlib.asynccontextmanager
async def serving(body: bytes, *, status: int = 200) -> AsyncIterator[str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_server_tells_the_sources_of_its_ranks() -> None:
    body = (
        b'{"0": {"endpoint": "tcp://*:1", "replay_endpoint": null, "topic": "t", "hwm": 3},'
        b' "1": {"endpoint": "tcp://*:2", "replay_endpoint": "tcp://*:3", "enable_kv_cache_events": true},'
        b' "2": {"endpoint": "tcp://*:4", "enable_kv_cache_events": false}}'
    )
    async with serving(body) as address:
        assert await ask_sources(address, 10) == {
            0: EventSource("tcp://*:1", "", "t", 0), 1: EventSource("tcp://*:2", "tcp://*:3", "", 1)
        }  # fmt: skip


@pytest.mark.parametrize(("status", "body"), [(404, b"no"), (200, b"{}")])
async def test_a_server_may_tell_nothing(status: int, body: bytes) -> None:
    async with serving(body, status=status) as address:
        assert await ask_sources(address, 10) is None


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, b"{}"), (200, b"[]"), (200, b"\xff"), (200, b'{"a": {}}'), (200, b" " * (MAX_BODY_BYTES + 1))],
)
async def test_answers_that_cannot_be_understood_are_errors(status: int, body: bytes) -> None:
    async with serving(body, status=status) as address:
        with pytest.raises(ValueError, match=r"."):
            await ask_sources(address, 10)


async def test_models_are_those_without_a_parent() -> None:
    body = b'{"data": [{"id": "base", "parent": null}, {"id": "ad1", "parent": "base"}, {"id": "alias"}]}'
    async with serving(body) as address:
        assert await ask_models(address, 10) == ("base", "alias")
