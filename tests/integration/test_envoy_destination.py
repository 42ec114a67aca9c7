"""Who decides where the real Envoy sends a request: the router, never the client."""

from pathlib import Path

import pytest

from tests.support.envoy_stage import settings_for, stage

DESTINATION = "x-gateway-destination-endpoint"


@pytest.mark.parametrize("destination", ["list", "single"])
async def test_the_router_decides(destination: str, tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path, routing__destination=destination), workers=3) as running:
        for chosen in running.workers:
            running.decide(chosen.address)
            assert {(await running.post()).worker for _ in range(4)} == {chosen.address}


@pytest.mark.parametrize("destination", ["list", "single"])
@pytest.mark.parametrize("routers", [0, 2], ids=["routers-dead", "routers-undecided"])
async def test_a_client_never_chooses_the_worker(destination: str, routers: int, tmp_path: Path) -> None:
    """``192.0.2.1`` is an address nobody answers at: a request sent there would fail."""
    settings = settings_for(tmp_path, routing__destination=destination)
    async with stage(settings, processors=routers) as running:
        answers = [await running.post(headers={DESTINATION: "192.0.2.1:80"}) for _ in range(4)]
        assert [answer.status for answer in answers] == [200] * 4
        seen = [request for one in running.workers for request in one.headers]
        asked = [request for one in running.processors for request in one.headers]
        assert not any(DESTINATION in headers for headers in [*seen, *asked])


async def test_a_client_does_not_steer_envoy(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path)) as running:
        steering = {"x-envoy-max-retries": "0", "x-envoy-upstream-rq-timeout-ms": "1", "x-envoy-retry-on": "5xx"}
        assert (await running.post(headers=steering)).status == 200
        (seen,) = [request for one in running.workers for request in one.headers]
        assert not steering.keys() & seen.keys()


async def test_an_answer_carries_no_header_of_envoys_router(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path)) as running:
        answer = await running.post()
        assert not [name for name in answer.headers if name.lower().startswith("x-envoy")]


async def test_a_router_that_needs_no_body_is_not_sent_it(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path)) as running:
        for router in running.processors:
            router.early = True
        chosen = running.workers[1]
        running.decide(chosen.address)
        assert {(await running.post(size=5000)).worker for _ in range(4)} == {chosen.address}
        assert [router.bodies for router in running.processors] == [[], []]


async def test_the_response_phase_tells_who_served(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path, routing__decision_header=True)) as running:
        failing, serving = running.workers
        failing.status = 503
        running.decide(f"{failing.address},{serving.address}")
        assert (await running.post()).status == 200
        assert [served for router in running.processors for served in router.served] == [serving.address]
