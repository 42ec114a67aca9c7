"""What clients get: answers, streams, and a clear error for every kind of bad input."""

import io
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from openai import AsyncOpenAI, BadRequestError, InternalServerError, NotFoundError

from tests.support.deployment import Deployment, deployment
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

MESSAGES: Any = [{"role": "user", "content": "Hello"}]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def deployed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    config = {"server": {"max_body_bytes": 1 << 20, "max_message_bytes": 2 << 20}}
    async with deployment(tmp_path_factory.mktemp("requests"), config=config) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def openai(deployed: Deployment) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{deployed.envoy.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session


async def test_a_chat_completion_is_answered_and_explained(openai: AsyncOpenAI) -> None:
    raw = await openai.chat.completions.with_raw_response.create(model="tiny", messages=MESSAGES)
    assert raw.parse().choices[0].message.content
    assert raw.headers["x-extproc-decision"].endswith("policy=round_robin; reason=round_robin")


async def test_a_stream_is_answered(openai: AsyncOpenAI) -> None:
    stream = await openai.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
    assert [chunk async for chunk in stream]


async def test_turns_are_shared_by_all_workers(deployed: Deployment, client: aiohttp.ClientSession) -> None:
    served = []
    for _ in range(9):
        async with client.post(
            f"{deployed.envoy.url}/v1/chat/completions", json={"model": "tiny", "messages": MESSAGES}
        ) as response:
            served.append(response.headers["x-worker"])
    assert {served.count(worker.address) for worker in deployed.workers} == {3}


@pytest.mark.parametrize(
    ("path", "extra"),
    [
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/embeddings", {"input": "a"}),
        ("/v1/responses", {"input": "a"}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 4}),
        ("/tokenize", {"prompt": "a"}),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
        ("/score", {"text_1": "a", "text_2": "b"}),
        ("/pooling", {"input": "a"}),
    ],
)
async def test_every_recognised_path_is_served(
    deployed: Deployment, client: aiohttp.ClientSession, path: str, extra: dict[str, Any]
) -> None:
    async with client.post(f"{deployed.envoy.url}{path}", json={"model": "tiny", **extra}) as response:
        assert response.status == 200, await response.text()
        assert "x-worker" in response.headers


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"nonsense", None),
        (b"", None),
        (b'{"messages": []}', "model"),
        (b'{"model": 5, "messages": []}', "model"),
        (b'{"model": "tiny", "messages": "hi"}', "messages"),
        (b'{"model": "tiny"}', "messages"),
    ],
    ids=["no JSON", "empty", "model missing", "model a number", "messages a text", "messages missing"],
)
async def test_bad_bodies_are_answered_400_naming_the_field(
    deployed: Deployment, client: aiohttp.ClientSession, body: bytes, param: str | None
) -> None:
    async with client.post(
        f"{deployed.envoy.url}/v1/chat/completions", data=body, headers={"content-type": "application/json"}
    ) as response:
        error = (await response.json())["error"]
        assert (response.status, error["type"], error["param"]) == (400, "invalid_request_error", param)
        assert response.headers["x-extproc-reason"] == "invalid_request"


async def test_the_openai_client_understands_our_errors(openai: AsyncOpenAI) -> None:
    with pytest.raises(NotFoundError) as unknown:
        await openai.chat.completions.create(model="nobodys", messages=MESSAGES)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(BadRequestError) as bad:
        await openai.chat.completions.create(model="tiny", messages="hi")  # type: ignore[arg-type]
    assert bad.value.param == "messages"


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_cap_is_answered_413(
    deployed: Deployment, client: aiohttp.ClientSession, chunked: bool
) -> None:
    body = b"x" * ((1 << 20) + 1)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1 << 16):
            yield body[start : start + (1 << 16)]

    async with client.post(
        f"{deployed.envoy.url}/v1/chat/completions", data=pieces() if chunked else io.BytesIO(body)
    ) as response:
        assert response.status == 413


async def test_a_client_cannot_choose_its_own_endpoint(deployed: Deployment, client: aiohttp.ClientSession) -> None:
    wanted = deployed.workers[0].address
    served = set()
    for _ in range(6):
        async with client.post(
            f"{deployed.envoy.url}/v1/chat/completions",
            json={"model": "tiny", "messages": MESSAGES},
            headers={"x-gateway-destination-endpoint": wanted},
        ) as response:
            served.add(response.headers["x-worker"])
    assert len(served) == 3


async def test_prompts_and_credentials_are_in_no_log_and_no_metric(
    deployed: Deployment, client: aiohttp.ClientSession
) -> None:
    secret = "unmistakable-secret"
    for messages in (secret, [{"role": "user", "content": secret}]):
        async with client.post(
            f"{deployed.envoy.url}/v1/chat/completions",
            json={"model": "tiny", "messages": messages},
            headers={"authorization": f"Bearer {secret}"},
        ) as response:
            await response.read()
    async with client.get(f"{deployed.service.admin_url}/metrics") as response:
        assert secret not in await response.text()
    assert secret not in deployed.service.log.read_text()


async def test_without_a_healthy_worker_the_answer_is_503_and_says_when_to_come_back(
    deployed: Deployment, openai: AsyncOpenAI
) -> None:
    for worker in deployed.workers:
        worker.behave(unhealthy=True)
    await until(lambda: nobody_healthy(deployed))
    with pytest.raises(InternalServerError) as refused:
        await openai.chat.completions.create(model="tiny", messages=MESSAGES)
    headers = refused.value.response.headers
    assert refused.value.status_code == 503
    assert (headers["x-extproc-reason"], headers["retry-after"]) == ("no_endpoint", "1")
    for worker in deployed.workers:
        worker.normal()
    await until(lambda: everybody_healthy(deployed))
    assert (await openai.chat.completions.create(model="tiny", messages=MESSAGES)).choices


async def test_requests_are_counted_and_nothing_stays_in_flight(deployed: Deployment) -> None:
    assert await deployed.service.metric("extproc_requests_total", outcome="routed") > 0
    assert await deployed.service.metric("extproc_requests_total", outcome="invalid_request") > 0
    await until(lambda: nothing_in_flight(deployed))
    assert await deployed.service.metric("extproc_decision_seconds_count") > 0


async def nobody_healthy(deployed: Deployment) -> bool:
    return not any(worker["healthy"] for worker in await deployed.service.workers())


async def everybody_healthy(deployed: Deployment) -> bool:
    return all(worker["healthy"] for worker in await deployed.service.workers())


async def nothing_in_flight(deployed: Deployment) -> bool:
    return not any(worker["in_flight"] for worker in await deployed.service.workers())
