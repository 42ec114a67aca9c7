"""What the real Envoy tells a processor about the answer, and how long it holds the stream.

What a router may build on: prefill credit, who served, what failed, when a request is over.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest
import yaml

from extproc.telemetry.tasks import spawn
from tests.support import deployment
from tests.support.echo_worker import EchoWorker
from tests.support.envoy_stage import Stage, settings_for, stage, until
from tests.support.tiny_extproc import Exchange

WANTED_BODY = {"request_body_mode": "BUFFERED"}
MODES = {
    "buffered": WANTED_BODY,
    "body-not-wanted": WANTED_BODY,
    "pipelined": {"request_body_mode": "PIPELINED"},
    "full-duplex": {"request_body_mode": "FULL_DUPLEX_STREAMED", "request_trailer_mode": "SEND"},
}


def in_mode(mode: str, *, trailers: str = "SEND") -> Callable[[str], str]:
    """Edit a bootstrap so that the filter works in ``mode`` and ``trailers`` of answers are asked for."""

    def edit(text: str) -> str:
        bootstrap = yaml.safe_load(text)
        sends = {"request_header_mode": "SEND", "response_header_mode": "SEND", "response_trailer_mode": trailers}
        deployment.processing_mode(**sends, **MODES[mode])(bootstrap)
        deployment.ext_proc_filter(bootstrap)["allow_mode_override"] = mode == "body-not-wanted"
        return yaml.safe_dump(bootstrap)

    return edit


def the_router(running: Stage, mode: str = "buffered") -> None:
    """Have the processor do what its mode is about."""
    (router,) = running.processors
    router.early = mode == "body-not-wanted"


def latest(running: Stage) -> Exchange:
    (router,) = running.processors
    return router.exchanges[-1]


@pytest.mark.parametrize("mode", MODES)
async def test_it_tells_status_and_type_and_who_served(mode: str, tmp_path: Path) -> None:
    settings = settings_for(tmp_path, supervisor__routers=1)
    async with stage(settings, processors=1, edit=in_mode(mode)) as running:
        the_router(running, mode)
        failing, serving = running.workers
        failing.status = 503
        running.decide(f"{failing.address},{serving.address}")
        assert (await running.post()).status == 200
        exchange = latest(running)
        assert exchange.served == serving.address
        assert exchange.response[":status"] == "200"
        assert exchange.response["content-type"] == "application/json"


@pytest.mark.parametrize("mode", MODES)
async def test_the_stream_is_held_until_the_answer_ends(mode: str, tmp_path: Path) -> None:
    settings = settings_for(tmp_path, supervisor__routers=1)
    async with stage(settings, processors=1, edit=in_mode(mode)) as running:
        the_router(running, mode)
        assert not await stream_ends_with_the_headers(running)


@pytest.mark.parametrize("mode", MODES)
async def test_without_asking_for_trailers_only_the_buffering_mode_holds_it(mode: str, tmp_path: Path) -> None:
    settings = settings_for(tmp_path, supervisor__routers=1)
    async with stage(settings, processors=1, edit=in_mode(mode, trailers="SKIP")) as running:
        the_router(running, mode)
        assert await stream_ends_with_the_headers(running) is (mode != "buffered")


async def stream_ends_with_the_headers(running: Stage) -> bool:
    """Whether the stream of a request is over although its answer is not; it is over in the end."""
    slow, fast = running.workers
    slow.body_gate.clear()
    running.decide(slow.address)
    async with running.client.post(f"{running.envoy.url}/v1/completions", data=b"x") as answer:
        exchange = latest(running)
        # Envoy has one connection to the processor, so when a whole later stream is over, so is whatever ended before.
        running.decide(fast.address)
        assert (await running.post()).worker == fast.address
        await latest(running).ended.wait()
        early = exchange.ended.is_set()
        slow.body_gate.set()
        assert (await answer.json())["worker"] == slow.address
    await exchange.ended.wait()
    assert exchange.kinds.count("response_headers") == 1
    assert exchange.kinds[-1] == "response_headers", "the end of an answer costs no message"
    return early


async def test_when_the_worker_answers_500_the_phase_says_so(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path, supervisor__routers=1), processors=1) as running:
        failing, other = running.workers
        failing.status = 500
        running.decide(f"{failing.address},{other.address}")
        assert (await running.post()).status == 500
        assert (latest(running).response[":status"], latest(running).served) == ("500", failing.address)
        assert other.requests == 0, "it may be the request's own fault"


@pytest.mark.parametrize(
    ("kind", "status", "content_type"),
    [("answer-503", 503, "application/json"), ("dead", 503, "text/plain"), ("hung", 504, "text/plain")],
)
async def test_when_every_worker_fails_the_phase_names_the_last_one_tried(
    kind: str, status: int, content_type: str, tmp_path: Path
) -> None:
    settings = settings_for(tmp_path, supervisor__routers=1, envoy__retries=1, envoy__hung_after_secs=0.3)
    async with stage(settings, processors=1) as running:
        first, second = running.workers
        for worker in running.workers:
            worker.status = 503
            if kind == "dead":
                await worker.kill()
            elif kind == "hung":
                worker.gate.clear()
        running.decide(f"{first.address},{second.address}")
        assert (await running.post()).status == status
        exchange = latest(running)
        assert (exchange.response[":status"], exchange.served) == (str(status), second.address)
        assert exchange.response["content-type"] == content_type


async def test_when_there_is_no_worker_the_phase_comes_and_names_nobody(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path, supervisor__routers=1), processors=1) as running:
        running.endpoints.write([])

        async def forgotten() -> bool:
            return not (await running.envoy.clusters())["workers"]

        await until(forgotten)
        assert (await running.post()).status == 503
        assert (latest(running).response[":status"], latest(running).served) == ("503", "")


async def test_a_body_that_envoy_refuses_ends_in_the_phase_too(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, supervisor__routers=1, server__max_body_bytes=1 << 20)
    async with stage(settings, processors=1) as running:
        assert (await running.post(size=(1 << 20) + 1)).status == 413
        assert (latest(running).response[":status"], latest(running).served) == ("413", "")


async def test_a_reset_attempt_is_not_told_but_who_served_instead(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path, supervisor__routers=1), processors=1) as running:
        resetting, serving = running.workers
        resetting.gate.clear()
        running.decide(f"{resetting.address},{serving.address}")
        async with asyncio.TaskGroup() as group:
            request = group.create_task(running.post())
            await resetting.arrived.wait()
            resetting.reset()
        assert (request.result().status, request.result().worker) == (200, serving.address)
        assert latest(running).served == serving.address
        assert latest(running).kinds == ["request_headers", "request_body", "response_headers"]


@pytest.mark.parametrize("mode", MODES)
async def test_a_request_that_does_not_end_well_ends_its_stream_without_a_word(mode: str, tmp_path: Path) -> None:
    settings = settings_for(tmp_path, supervisor__routers=1)
    async with stage(settings, processors=1, edit=in_mode(mode)) as running:
        the_router(running, mode)
        await break_an_answer(running, running.workers[0])
        await latest(running).ended.wait()
        assert latest(running).kinds[-1] == "response_headers"
        await leave_before_the_answer(running, running.workers[1])
        await latest(running).ended.wait()
        assert latest(running).served is None


async def break_an_answer(running: Stage, worker: EchoWorker) -> None:
    worker.body_gate.clear()
    running.decide(worker.address)
    async with running.client.post(f"{running.envoy.url}/v1/completions", data=b"x") as answer:
        worker.reset()
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()


async def leave_before_the_answer(running: Stage, worker: EchoWorker) -> None:
    worker.gate.clear()
    running.decide(worker.address)
    request = spawn(running.post(), name="request")
    await worker.arrived.wait()
    request.cancel()
    with suppress(asyncio.CancelledError):
        await request


@pytest.mark.parametrize("wants_body", [True, False])
@pytest.mark.parametrize("fail_open", [True, False])
async def test_a_router_that_dies_breaks_no_answer_whose_stream_it_need_not_hold(
    wants_body: bool, fail_open: bool, tmp_path: Path
) -> None:
    """Failing closed, a buffering mode holds the stream whatever we ask for, and that answer is lost."""
    settings = settings_for(tmp_path, supervisor__routers=1, envoy__fail_open=fail_open)
    async with stage(settings, processors=1) as running:
        (router,) = running.processors
        router.early = not wants_body
        worker = running.workers[0]
        worker.body_gate.clear()
        running.decide(worker.address)
        async with running.client.post(f"{running.envoy.url}/v1/completions", data=b"x") as answer:
            await router.stop()
            worker.body_gate.set()
            if wants_body and not fail_open:
                with pytest.raises(aiohttp.ClientPayloadError):
                    await answer.read()
            else:
                assert (await answer.json())["worker"] == worker.address


async def test_the_phase_can_be_done_without(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, supervisor__routers=1, envoy__response_headers=False)
    async with stage(settings, processors=1) as running:
        running.decide(running.workers[0].address)
        assert (await running.post()).status == 200
        await latest(running).ended.wait()
        assert latest(running).kinds == ["request_headers", "request_body"]
