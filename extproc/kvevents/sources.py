"""Finds out where an engine publishes its events: it is asked, or it is configured."""

import asyncio
from typing import Any

import msgspec

from extproc.config.kv_events import KvEventsSettings
from extproc.fleet.load.connection import WorkerConnection
from extproc.fleet.worker import Worker
from extproc.fleet.worker_http import split_address
from extproc.kvevents.endpoints import with_rank

MAX_BODY_BYTES = 256 << 10
MAX_RANKS = 1024

_OK = 200
_NOT_FOUND = 404


class EventSource(msgspec.Struct, frozen=True):
    """Where one rank publishes: endpoints as in the engine's configuration, ``replay_endpoint`` empty for none."""

    endpoint: str
    replay_endpoint: str
    topic: str
    rank: int


class _Told(msgspec.Struct):
    """One rank, as an engine tells it; null stands for what is not there."""

    endpoint: str | None = None
    replay_endpoint: str | None = None
    topic: str | None = None
    enable_kv_cache_events: bool | None = True
    publisher: str | None = "zmq"


class _Model(msgspec.Struct):
    """An entry of ``/v1/models``; adapters have a parent."""

    id: str
    parent: str | None = None


class _Models(msgspec.Struct):
    """The answer of ``/v1/models``."""

    data: list[_Model]


def configured_source(settings: KvEventsSettings, worker: Worker) -> EventSource | None:
    """Return what is configured for a worker, or for all; None when no endpoint is."""
    endpoint = worker.kv_events_endpoint or settings.endpoint
    if not endpoint:
        return None
    host, _ = split_address(worker.address)
    shown = f"[{host}]" if ":" in host else host

    def filled(text: str) -> str:
        return text.replace("{host}", shown).replace("{address}", worker.address)

    return EventSource(
        with_rank(filled(endpoint), worker.rank),
        with_rank(filled(worker.kv_events_replay_endpoint or settings.replay_endpoint), worker.rank),
        filled(worker.kv_events_topic or settings.topic),
        worker.rank,
    )


async def ask_sources(address: str, timeout: float) -> dict[int, EventSource] | None:  # noqa: ASYNC109 - seconds for the whole
    """Return where the ranks of the server at ``address`` publish; None when it does not tell or publishes nothing.

    Raises ``OSError``, ``TimeoutError``, and ``ValueError`` for an answer that cannot be understood.
    """
    body = await _get(address, "/kv_event_sources", timeout)
    if body is None:
        return None
    told = _decoded(body, dict[int, _Told])
    if len(told) > MAX_RANKS:
        raise ValueError(f"{len(told)} ranks are more than {MAX_RANKS}")
    sources = {
        rank: EventSource(source.endpoint, source.replay_endpoint or "", source.topic or "", rank)
        for rank, source in told.items()
        if source.endpoint and source.enable_kv_cache_events and source.publisher == "zmq"
    }
    return sources or None


async def ask_models(address: str, timeout: float) -> tuple[str, ...]:  # noqa: ASYNC109 - seconds for the whole
    """Return the names of a server's models, without its adapters. Raises as :func:`ask_sources`."""
    body = await _get(address, "/v1/models", timeout)
    if body is None:
        raise ValueError("/v1/models: status 404")
    return tuple(model.id for model in _decoded(body, _Models).data if model.parent is None)


async def _get(address: str, path: str, seconds: float) -> bytes | None:
    """Return the body of an answer, or None for 404."""
    host, port = split_address(address)
    connection = WorkerConnection(host=host, port=port, accept="application/json", max_body_bytes=MAX_BODY_BYTES)
    try:
        async with asyncio.timeout(seconds):
            response = await connection.get(path)
    finally:
        connection.close()
    if response.status == _NOT_FOUND:
        return None
    if response.status != _OK:
        raise ValueError(f"{path}: status {response.status}")
    return response.body


def _decoded(body: bytes, kind: Any) -> Any:  # noqa: ANN401 - any type that msgspec reads
    try:
        # Not strict: the ranks are keys, and so strings.
        return msgspec.json.decode(body, type=kind, strict=False)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"the answer cannot be understood: {error}") from None
