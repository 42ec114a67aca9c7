"""The service and Envoy in front of real vLLM servers, and a client that sees what was decided and what was cached."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from extproc.shm.worker_table import Trust
from tests.support.deployment import data_plane
from tests.support.event_reader import EventReader
from tests.support.service import Service
from tests.support.waiting import until
from tests.vllm.servers import ADAPTER, BLOCK_TOKENS

MODEL = "tiny"
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
ANSWER_SECS = 120.0
SETTLED_SECS = 60.0


class Answer(NamedTuple):
    """A whole answer, and the parts of the decision's header by their names."""

    body: Any
    decision: Mapping[str, str]

    @property
    def worker(self) -> str:
        return self.decision["worker"]

    @property
    def prompt_tokens(self) -> int:
        return int(self.body["usage"]["prompt_tokens"])

    @property
    def cached_tokens(self) -> int:
        """As the engine reports them."""
        return int(self.body["usage"]["prompt_tokens_details"]["cached_tokens"])

    @property
    def predicted_tokens(self) -> int:
        """What the decision took for cached; an engine computes at least the last token, and with it its block."""
        most = (self.prompt_tokens - 1) // BLOCK_TOKENS * BLOCK_TOKENS
        return min(int(self.decision["matched"]), most)


class Gateway:
    """One service, its Envoy, and a client of both."""

    def __init__(self, *, service: Service, url: str, session: aiohttp.ClientSession) -> None:
        self.service = service
        self._url = url
        self._session = session

    async def chat(self, messages: Sequence[Mapping[str, str]], **fields: object) -> Answer:
        return await self.post(CHAT, messages=list(messages), **fields)

    async def complete(self, prompt: str | Sequence[int], **fields: object) -> Answer:
        return await self.post(COMPLETIONS, prompt=prompt, **fields)

    async def post(self, path: str, **fields: object) -> Answer:
        """Send a JSON body through Envoy; the answer must be 200. Short and without chance unless ``fields`` say so."""
        async with self._session.post(f"{self._url}{path}", json=_body(fields)) as response:
            content = await response.read()
            assert response.status == 200, content
            return Answer(json.loads(content), _decision(response))

    async def stream(self, path: str, **fields: object) -> tuple[list[Any], Mapping[str, str]]:
        """Send a JSON body that asks for a stream; returns its events, the end mark left out, and the decision."""
        body = {**_body(fields), "stream": True, "stream_options": {"include_usage": True}}
        async with self._session.post(f"{self._url}{path}", json=body) as response:
            content = await response.text()
            assert response.status == 200, content
            assert response.content_type == "text/event-stream"
            events = [line.removeprefix("data: ") for line in content.split("\n\n") if line]
            assert events.pop() == "[DONE]"
            return [json.loads(event) for event in events], _decision(response)

    async def tokenize(self, **fields: object) -> list[int]:
        """The ids that the service makes of a prompt."""
        async with self._session.post(
            f"{self.service.admin_url}/tokenize", json={"model": MODEL, **fields}
        ) as response:
            document = await response.json()
            assert response.status == 200, document
            (prompt,) = document["prompts"]
            ids: list[int] = prompt["tokens"]
            assert prompt["exact"]
            assert len(ids) == prompt["count"]
            return ids


async def heard(service: Service, worker: str, reader: EventReader) -> None:
    """Wait until a service has taken in all that an engine has announced, which takes it milliseconds."""

    async def all_of_it() -> bool:
        taken = await service.metric("extproc_kv_event_batches_total", worker=worker, result="batches")
        return taken >= len(reader.drain())

    await until(all_of_it, deadline_secs=SETTLED_SECS)


def _body(fields: Mapping[str, object]) -> dict[str, object]:
    return {"model": MODEL, "max_tokens": 1, "temperature": 0, "ignore_eos": True, **fields}


def _decision(response: aiohttp.ClientResponse) -> Mapping[str, str]:
    parts = response.headers["x-extproc-decision"].split("; ")
    return {name: value for name, _, value in (part.partition("=") for part in parts)}


@asynccontextmanager
async def gateway(
    directory: Path, *, model: Path, workers: Sequence[Mapping[str, object]], config: Mapping[str, Any] | None = None
) -> AsyncIterator[Gateway]:
    """Serve ``model`` from ``workers``, entries of the configuration without the models' names."""
    settings: dict[str, Any] = {
        "routing": {"decision_header": True, "policy": "expected_latency"},
        "models": [
            {"name": MODEL, "source": str(model), "block_size": BLOCK_TOKENS, "lora_adapters": [ADAPTER]},
        ],
        "workers": [{**worker, "models": [MODEL, ADAPTER]} for worker in workers],
        "kv_events": {"sample_share": 1.0},
        # Two cores for all of this: an engine's server may answer late.
        "fleet": {"health_timeout_secs": 5.0},
        **(config or {}),
    }
    async with (
        Service(directory=directory, config=settings) as service,
        data_plane(service) as envoy,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_SECS)) as session,
    ):
        one = Gateway(service=service, url=envoy.url, session=session)
        await until(lambda: _all_serve(service), deadline_secs=SETTLED_SECS)
        yield one


async def _all_serve(service: Service) -> bool:
    return all(worker["healthy"] for worker in await service.workers())


async def trust_of(service: Service, worker: str) -> Trust:
    """How well the service says it knows a worker's cache."""
    (row,) = [one for one in await service.workers() if one["id"] == worker]
    return Trust(int(row["engine"]["trust"]))


async def trusted(service: Service, *workers: str) -> None:
    """Wait until the engines of these workers are followed, event by event."""

    async def all_precise() -> bool:
        return all([await trust_of(service, worker) is Trust.PRECISE for worker in workers])

    await until(all_precise, deadline_secs=SETTLED_SECS)


async def samples(service: Service) -> dict[str, float]:
    """Answers whose cached tokens were compared with what was predicted, by the result, over all workers."""
    async with aiohttp.ClientSession() as session, session.get(f"{service.admin_url}/metrics") as response:
        text = await response.text()
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "extproc_cached_tokens_samples_total":
                result = sample.labels["result"]
                found[result] = found.get(result, 0) + sample.value
    return found


async def more_samples(service: Service, before: Mapping[str, float], *, count: int) -> dict[str, float]:
    """Wait for so many comparisons since ``before``; returns them by their results."""
    found: dict[str, float] = {}

    async def enough() -> bool:
        found.clear()
        found.update({name: value - before.get(name, 0) for name, value in (await samples(service)).items()})
        return sum(found.values()) >= count

    await until(enough, deadline_secs=SETTLED_SECS)
    return found
