"""How the real Envoy follows the endpoint file, and which workers it balances to by itself."""

import asyncio
from pathlib import Path

from extproc.fleet.worker import Worker, WorkerState
from tests.support.echo_worker import EchoWorker
from tests.support.envoy_stage import Stage, listed, settings_for, stage, until


def record(worker: EchoWorker, *, healthy: bool = True, draining: bool = False) -> Worker:
    state: WorkerState = "draining" if draining else "active"
    return Worker(id=worker.address, address=worker.address, slot=0, healthy=healthy, state=state)


async def publish(running: Stage, workers: list[Worker]) -> None:
    """Write the file and wait until Envoy knows exactly these workers, in these states."""
    running.endpoints.write(workers)
    wanted = {
        one.address: "UNHEALTHY" if not one.healthy else "DRAINING" if one.state == "draining" else "HEALTHY"
        for one in workers
    }

    async def known() -> bool:
        seen = (await running.envoy.clusters())["workers"]
        return {address: status["eds_health_status"] for address, status in seen.items()} == wanted

    await until(known)


async def served_by(running: Stage, requests: int) -> set[str]:
    return {(await running.post()).worker for _ in range(requests)}


async def test_envoys_own_balancing_avoids_unhealthy_and_draining_workers(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path), workers=3) as running:
        good, sick, leaving = running.workers
        await publish(running, [record(good), record(sick, healthy=False), record(leaving, draining=True)])
        assert await served_by(running, 20) == {good.address}


async def test_the_routers_word_counts_more_than_the_files(tmp_path: Path) -> None:
    """A request whose router chose a worker just before it began to drain still goes there."""
    async with stage(settings_for(tmp_path), workers=3) as running:
        good, sick, leaving = running.workers
        await publish(running, [record(good), record(sick, healthy=False), record(leaving, draining=True)])
        for chosen in (sick, leaving):
            running.decide(chosen.address)
            assert (await running.post()).worker == chosen.address


async def test_with_no_worker_healthy_envoy_tries_them_all(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path)) as running:
        await publish(running, [record(one, healthy=False) for one in running.workers])
        assert await served_by(running, 40) == {one.address for one in running.workers}


async def test_an_endpoint_the_file_does_not_name_is_not_reached(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path)) as running:
        known, unknown = running.workers
        await publish(running, [record(known)])
        running.decide(unknown.address)
        assert await served_by(running, 5) == {known.address}


async def test_an_empty_file_means_503(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path)) as running:
        running.decide(running.workers[0].address)
        await publish(running, [])
        answer = await running.post()
        assert (answer.status, answer.text) == (503, "no healthy upstream")
        await publish(running, listed(running.workers))
        assert (await running.post()).status == 200


async def test_a_removed_worker_finishes_what_it_has(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path)) as running:
        leaving, staying = running.workers
        leaving.gate.clear()
        running.decide(leaving.address)
        async with asyncio.TaskGroup() as group:
            request = group.create_task(running.post())
            await leaving.arrived.wait()
            await publish(running, [record(staying)])
            running.decide(staying.address)
            assert (await running.post()).worker == staying.address
            leaving.gate.set()
        answer = request.result()
        assert (answer.status, answer.worker) == (200, leaving.address)
