import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from extproc.admin.app import PAGES, AdminServer
from extproc.admin.metrics import service_registry
from extproc.admin.tokens import TokenService
from extproc.config.models import ModelSpec
from extproc.errors import StartupError
from extproc.observer.tokens import ObservedTokens
from extproc.shm.token_store import TokenStore
from tests.support.fleets import worker
from tests.support.readers import Reading
from tests.support.recordings import observed_recording
from tests.support.service_state import ENGINE, OUTCOME, FakeState, process


def observed_tokens(*specs: ModelSpec, store: TokenStore | None = None) -> ObservedTokens:
    return ObservedTokens(shelf=Reading(store=store).shelf, store=store, specs=lambda: specs)


class Client:
    def __init__(self, session: aiohttp.ClientSession, state: FakeState) -> None:
        self.session = session
        self.state = state

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.session.get(path) as response:
            assert response.content_type == "application/json"
            return response.status, json.loads(await response.text())


@asynccontextmanager
async def admin(
    tmp_path: Path,
    state: FakeState | None = None,
    *,
    registry: CollectorRegistry | None = None,
    tokens: TokenService | None = None,
) -> AsyncIterator[Client]:
    state = state or FakeState()
    registry = registry or service_registry(state=state, metric_dir=tmp_path)
    server = AdminServer(
        address="127.0.0.1:0",
        state=state,
        registry=registry,
        tokens=tokens or observed_tokens(),
        recording=observed_recording(),
    )
    address = await server.start()
    try:
        async with aiohttp.ClientSession(f"http://{address}") as session:
            yield Client(session, state)
    finally:
        await server.close()


RANK = {
    "rank": 0,
    "ranks": 1,
    "kv_events_endpoint": "",
    "kv_events_replay_endpoint": "",
    "kv_events_topic": "",
}


async def test_the_index_names_pages_that_exist(tmp_path: Path) -> None:
    async with admin(tmp_path) as client:
        status, index = await client.get("/")
        assert (status, index["pages"]) == (200, PAGES)
        for page in PAGES:
            async with client.session.get(page) as response:
                assert response.status in {200, 405, 503}


async def test_is_healthy_while_it_lives(tmp_path: Path) -> None:
    async with admin(tmp_path) as client:
        assert await client.get("/health") == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("generation", "processes", "reasons"),
    [
        (0, (), ["no fleet is published", "no router is ready"]),
        (1, (process("router", 0, ready=False), process("observer", 0)), ["no router is ready"]),
        (0, (process("router", 0),), ["no fleet is published"]),
    ],
)
async def test_says_why_it_is_not_ready(
    tmp_path: Path, generation: int, processes: tuple[Any, ...], reasons: list[str]
) -> None:
    state = FakeState(fleet_generation=generation, process_rows=processes)
    async with admin(tmp_path, state) as client:
        assert await client.get("/readiness") == (503, {"status": "not ready", "reasons": reasons})


async def test_one_router_is_enough_to_be_ready(tmp_path: Path) -> None:
    rows = (process("router", 0, ready=False), process("router", 1))
    async with admin(tmp_path, FakeState(fleet_generation=3, process_rows=rows)) as client:
        assert await client.get("/readiness") == (200, {"status": "ready"})


async def test_lists_the_workers(tmp_path: Path) -> None:
    state = FakeState(
        fleet_generation=5,
        known=(worker(0, models=("m",)), worker(2, draining=True, healthy=False)),
        totals=[4, 0, 7],
    )
    async with admin(tmp_path, state) as client:
        _, page = await client.get("/workers")
    rows = [page["workers"][0].pop(name) for name in ("engine", "outcome", "requests", "prefill_secs")]
    assert rows == [dict.fromkeys(ENGINE, 0.0), dict.fromkeys(OUTCOME, 0.0), 4, 0]
    for name in ("engine", "outcome", "requests", "prefill_secs"):
        page["workers"][1].pop(name)
    assert page == {
        "fleet_generation": 5,
        "workers": [
            {
                "id": "w0",
                "address": "10.0.0.0:8000",
                "slot": 0,
                "models": ["m"],
                "state": "active",
                "healthy": True,
                "in_flight": 4,
                "lora": None,
                **RANK,
                "decode_tokens": 0,
            },
            {
                "id": "w2",
                "address": "10.0.0.2:8000",
                "slot": 2,
                "models": [],
                "state": "draining",
                "healthy": False,
                "in_flight": 7,
                "lora": None,
                **RANK,
                "decode_tokens": 0,
            },
        ],
    }


async def test_lists_the_processes(tmp_path: Path) -> None:
    async with admin(tmp_path, FakeState(process_rows=(process("router", 1),))) as client:
        _, page = await client.get("/processes")
    (row,) = page["processes"]
    assert (row["role"], row["index"], row["ready"], row["streams_total"]) == ("router", 1, True, 200)


async def test_unknown_pages_and_methods_are_answered_in_json(tmp_path: Path) -> None:
    async with admin(tmp_path) as client:
        assert await client.get("/nothing/here") == (404, {"error": "Not Found"})
        async with client.session.post("/workers", data=b"x" * 100_000) as response:
            assert response.status == 405
            assert set(response.headers["Allow"].split(",")) == {"GET", "HEAD"}
            assert await response.json() == {"error": "Method Not Allowed"}
        async with client.session.head("/workers") as response:
            assert response.status == 200


async def test_a_page_that_fails_is_answered_and_logged_and_the_next_one_works(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = FakeState(known=(worker(5),), totals=[])
    async with admin(tmp_path, state) as client:
        assert await client.get("/workers") == (500, {"error": "Internal Server Error"})
        assert "Admin page /workers failed" in caplog.text
        assert (await client.get("/health"))[0] == 200


async def test_an_address_in_use_cannot_be_started_on(tmp_path: Path) -> None:
    async with await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0) as taken:
        address = f"127.0.0.1:{taken.sockets[0].getsockname()[1]}"
        state = FakeState()
        server = AdminServer(
            address=address,
            state=state,
            registry=service_registry(state=state, metric_dir=tmp_path),
            tokens=observed_tokens(),
            recording=observed_recording(),
        )
        with pytest.raises(StartupError, match=f"admin.address: cannot listen on {address}"):
            await server.start()


async def test_serves_metrics_in_both_text_formats(tmp_path: Path) -> None:
    state = FakeState(fleet_generation=9, known=(worker(0),), totals=[3], process_rows=(process("router", 0),))
    async with admin(tmp_path, state) as client:
        async with client.session.get("/metrics") as response:
            assert response.headers["Content-Type"].startswith("text/plain; version=")
            plain = {family.name: family for family in parse_text(await response.text())}
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        async with client.session.get("/metrics", headers=accept) as response:
            assert response.headers["Content-Type"].startswith("application/openmetrics-text")
            families = parse_openmetrics(await response.text())  # type: ignore[no-untyped-call]
            openmetrics = {family.name: family for family in families}
    assert plain.keys() == openmetrics.keys()
    assert plain["extproc_fleet_generation"].samples[0].value == 9
