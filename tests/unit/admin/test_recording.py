"""Recordings over the admin port."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from extproc.admin.app import AdminServer
from extproc.observer.tokens import ObservedTokens
from tests.support.readers import Reading
from tests.support.recordings import observed_recording
from tests.support.service_state import FakeState


@asynccontextmanager
async def admin(directory: str) -> AsyncIterator[aiohttp.ClientSession]:
    server = AdminServer(
        address="127.0.0.1:0",
        state=FakeState(),
        registry=CollectorRegistry(),
        tokens=ObservedTokens(shelf=Reading().shelf, store=None, specs=tuple),
        recording=observed_recording(directory),
    )
    address = await server.start()
    try:
        async with aiohttp.ClientSession(f"http://{address}") as session:
            yield session
    finally:
        await server.close()


async def ask(session: aiohttp.ClientSession, method: str, body: str = "", *, query: str = "") -> tuple[int, Any]:
    async with session.request(method, f"/recording{query}", data=body) as response:
        return response.status, await response.json()


async def test_begins_shows_and_ends(tmp_path: Path) -> None:
    async with admin(str(tmp_path)) as session:
        nothing = {"directory": str(tmp_path), "recording": None, "secs_left": 0, "unwritten": 0}
        assert await ask(session, "GET") == (200, nothing)
        status, begun = await ask(session, "POST", '{"secs": 60}')
        assert (status, len(begun["recording"])) == (200, 16)
        assert 0 < begun["secs_left"] <= 60
        assert (await ask(session, "GET"))[1]["recording"] == begun["recording"]
        assert (await ask(session, "DELETE", query="?recording=other"))[1]["recording"] == begun["recording"]
        assert await ask(session, "DELETE", query=f"?recording={begun['recording']}") == (200, nothing)
        assert await ask(session, "DELETE") == (200, nothing)


async def test_says_why_it_does_not_begin() -> None:
    async with admin("") as session:
        status, answer = await ask(session, "POST", '{"secs": 60}')
        assert (status, "recording.directory" in answer["error"]) == (409, True)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "x",
        "[]",
        "{}",
        '{"secs": 0}',
        '{"secs": 86401}',
        '{"secs": "1"}',
        '{"secs": 1, "max_bytes": 5}',
        '{"sec": 1}',
    ],
)
async def test_refuses_what_is_no_order(body: str, tmp_path: Path) -> None:
    async with admin(str(tmp_path)) as session:
        status, answer = await ask(session, "POST", body)
        assert (status, bool(answer["error"])) == (400, True)
        assert (await ask(session, "GET"))[1]["recording"] is None
