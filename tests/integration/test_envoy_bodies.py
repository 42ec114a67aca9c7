"""How large a body the real Envoy keeps for us, over HTTP/1.1 and HTTP/2."""

from pathlib import Path

import grpc
import pytest

from tests.support.envoy_stage import settings_for, stage

CAP = 8 << 20
FRAME_BYTES = 5
"""gRPC's own prefix, which the server sees as part of the body."""


@pytest.mark.parametrize("size", [0, 1, 62_001, 6_000_000, CAP])
async def test_a_body_up_to_the_cap_reaches_router_and_worker(size: int, tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path, server__max_body_bytes=CAP), workers=1, processors=1) as running:
        answer = await running.post(size=size)
        assert answer.status == 200
        assert f'"bytes": {size}}}' in answer.text
        assert running.processors[0].bodies == ([size] if size else [])


async def test_a_body_over_the_cap_is_answered_413(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path, server__max_body_bytes=CAP), workers=1, processors=1) as running:
        assert (await running.post(size=CAP + 1)).status == 413
        assert running.workers[0].requests == 0


@pytest.mark.parametrize(("size", "arrives"), [(6_000_000, True), (CAP, True), (CAP + 1, False)])
async def test_the_cap_is_the_same_over_http2(size: int, arrives: bool, tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path, server__max_body_bytes=CAP), workers=1, processors=1) as running:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{running.envoy.listen}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as raised:  # the worker's answer is not gRPC
                await channel.unary_unary("/any/path")(bytes(size - FRAME_BYTES))
        assert (raised.value.details() == "Payload Too Large") is not arrives
        assert running.workers[0].requests == int(arrives)
        if arrives:  # else the router may see it, while the 413 passes through the response phase
            assert running.processors[0].bodies == [size]


async def test_a_large_body_is_sent_again_to_the_next_worker(tmp_path: Path) -> None:
    async with stage(settings_for(tmp_path, server__max_body_bytes=CAP)) as running:
        failing, serving = running.workers
        failing.status = 503
        running.decide(f"{failing.address},{serving.address}")
        answer = await running.post(size=CAP)
        assert (answer.status, answer.worker) == (200, serving.address)
        assert f'"bytes": {CAP}}}' in answer.text
