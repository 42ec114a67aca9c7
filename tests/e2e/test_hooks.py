"""What hooks change and refuse, over the real Envoy, in every mode in which bodies are read."""

import hashlib
import io
import json
import os
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from extproc.config.plugins import PluginGroup
from tests.support.deployment import (
    Bootstrap,
    Deployment,
    connection_manager,
    data_plane,
    deployment,
    ext_proc_filter,
    processing_mode,
)
from tests.support.envoy import EnvoyProcess
from tests.support.plugins import install
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

HOOKS = '''
import asyncio

from extproc.routing.hooks import HookResult


class Obeying:
    """Does what the header `x-extproc-test` says."""

    needs_body = True

    def __init__(self, *, options):
        self._options = options

    async def on_request(self, request):
        wanted, _, value = request.headers.get("x-extproc-test", "").partition("=")
        if wanted == "raise":
            raise ValueError(request.body.decode())
        if wanted == "wait":
            await asyncio.sleep(3600)
        if wanted == "refuse":
            return HookResult(refuse_status=int(value), refuse_message="The hook says no.")
        return HookResult(
            set_headers={"x-hook": f"saw {request.model}"},
            metadata={"team": self._options["team"]},
            model=value if wanted == "model" else None,
        )
'''

HEADERS_BOTH = {"request_header_mode": "SEND", "response_header_mode": "SEND"}
MODES = {
    "buffered": {**HEADERS_BOTH, "request_body_mode": "BUFFERED"},
    "pipelined": {**HEADERS_BOTH, "request_body_mode": "PIPELINED"},
    "full_duplex": {**HEADERS_BOTH, "request_body_mode": "FULL_DUPLEX_STREAMED", "request_trailer_mode": "SEND"},
}
# Where the body goes on in pieces, its length goes with it only if the filter allows that.
PLANES = {
    "buffered": ("buffered", False),
    "pipelined": ("pipelined", False),
    "full_duplex": ("full_duplex", False),
    "pipelined, length allowed": ("pipelined", True),
    "full_duplex, length allowed": ("full_duplex", True),
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def deployed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    points = {PluginGroup.HOOKS: {"obeying": "hooks_of_an_e2e_test:Obeying"}}
    site = install(
        tmp_path_factory.mktemp("site"), package="p", entry_points=points, modules={"hooks_of_an_e2e_test": HOOKS}
    )
    config = {
        "hooks": {"enabled": ["obeying"], "time_budget_secs": 0.5},
        "plugins": [{"name": "obeying", "options": json.dumps({"team": "red"})}],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
        async with deployment(tmp_path_factory.mktemp("hooks"), workers=1, config=config) as running:
            yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=PLANES)
async def plane(request: pytest.FixtureRequest, deployed: Deployment) -> AsyncIterator[tuple[EnvoyProcess, bool]]:
    """An Envoy, and whether a length that hooks change arrives."""
    mode, length_allowed = PLANES[request.param]

    def edit(bootstrap: Bootstrap) -> None:
        processing_mode(**MODES[mode])(bootstrap)
        ext_proc_filter(bootstrap)["allow_content_length_header"] = length_allowed

    async with data_plane(deployed.service, edit=edit) as envoy:
        yield envoy, length_allowed or mode == "buffered"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session


def chat_body(model: str, size: int) -> bytes:
    """A request with parts that a careless rewriting would change."""
    shell = {
        "model": model,
        "temperature": 1e-05,
        "messages": [{"role": "user", "content": "é" * size}],
        "max_tokens": 2,
    }
    return json.dumps(shell, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "asked", [("t", 10), ("a-long-alias-of-the-model", 10), ("t", 40_000), ("a-long-alias-of-the-model", 1_500_000)]
)
@pytest.mark.parametrize("chunked", [False, True], ids=["whole", "chunked"])
async def test_a_rewritten_body_arrives_whole_with_its_length(
    plane: tuple[EnvoyProcess, bool],
    deployed: Deployment,
    client: aiohttp.ClientSession,
    asked: tuple[str, int],
    chunked: bool,
) -> None:
    """No worker serves the model that is asked for: the hook's decides who is a candidate."""
    envoy, has_length = plane
    model, size = asked
    body, expected = chat_body(model, size), chat_body("tiny", size)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 50_001):
            yield body[start : start + 50_001]

    headers = {"content-type": "application/json", "x-extproc-test": "model=tiny"}
    data = pieces() if chunked else io.BytesIO(body)
    async with client.post(f"{envoy.url}/v1/chat/completions", data=data, headers=headers) as response:
        assert response.status == 200, await response.text()
    arrived = deployed.workers[0].requests()["last"][-1]
    assert arrived["body_sha256"] == hashlib.sha256(expected).hexdigest()
    seen = {name.lower(): value for name, value in arrived["headers"]}
    assert seen["x-hook"] == f"saw {model}"
    assert seen.get("content-length") == (str(len(expected)) if has_length else None)


async def test_a_body_that_hooks_leave_alone_arrives_as_it_came(
    plane: tuple[EnvoyProcess, bool], deployed: Deployment, client: aiohttp.ClientSession
) -> None:
    envoy, _ = plane
    body = chat_body("tiny", 1000)
    async with client.post(f"{envoy.url}/v1/chat/completions", data=body) as response:
        assert response.status == 200, await response.text()
    arrived = deployed.workers[0].requests()["last"][-1]
    assert arrived["body_sha256"] == hashlib.sha256(body).hexdigest()


async def test_a_hooks_refusal_is_answered_as_an_openai_error(
    plane: tuple[EnvoyProcess, bool], client: aiohttp.ClientSession
) -> None:
    envoy, _ = plane
    for status, kind in ((403, "invalid_request_error"), (503, "server_error")):
        headers = {"x-extproc-test": f"refuse={status}"}
        async with client.post(
            f"{envoy.url}/v1/chat/completions", data=chat_body("tiny", 10), headers=headers
        ) as response:
            error = (await response.json())["error"]
            assert (response.status, error["type"], error["message"]) == (status, kind, "The hook says no.")
            assert response.headers["x-extproc-reason"] == "hook_refused"


async def test_metadata_of_hooks_is_envoys_dynamic_metadata(
    deployed: Deployment, client: aiohttp.ClientSession
) -> None:
    """With our own bootstrap, which lets the namespace in."""

    def edit(bootstrap: Bootstrap) -> None:
        (host,) = connection_manager(bootstrap)["route_config"]["virtual_hosts"]
        header = {"key": "x-team", "value": "%DYNAMIC_METADATA(extproc:team)%"}
        host["response_headers_to_add"] = [{"header": header}]

    async with (
        data_plane(deployed.service, edit=edit) as envoy,
        client.post(f"{envoy.url}/v1/chat/completions", data=chat_body("tiny", 10)) as response,
    ):
        assert (response.status, response.headers["x-team"]) == (200, "red")


@pytest.mark.parametrize(("wanted", "result"), [("raise", "failed"), ("wait", "timeout")])
async def test_a_hook_that_fails_is_passed_over_and_counted_and_nothing_of_the_request_is_told(
    deployed: Deployment, client: aiohttp.ClientSession, wanted: str, result: str
) -> None:
    secret = chat_body("tiny", 10).replace(b"user", b'user", "name": "unmistakable')
    before = await counted(deployed, result)
    for _ in range(3):
        async with client.post(
            f"{deployed.envoy.url}/v1/chat/completions", data=secret, headers={"x-extproc-test": wanted}
        ) as response:
            assert response.status == 200, await response.text()
    await until_counted(deployed, result, before + 3)
    assert "unmistakable" not in deployed.service.log.read_text()


async def counted(deployed: Deployment, result: str) -> float:
    return await deployed.service.metric("extproc_hooks_total", hook="obeying", result=result)


async def until_counted(deployed: Deployment, result: str, expected: float) -> None:
    async def reached() -> bool:
        return await counted(deployed, result) == expected

    await until(reached)
