"""Paths for those who run a worker: health, metrics, load, and the ``/sim/`` paths that steer it.

They are outside every misbehaviour but ``unhealthy`` and ``refuse``, and the ledger does not count them.
"""

import ipaddress
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from workers.simulated.api.base import decode
from workers.simulated.engine import Engine
from workers.simulated.faults import Behaviour, Faults
from workers.simulated.ledger import Ledger
from workers.simulated.metrics import WorkerMetrics
from workers.simulated.replies import Replies, read_body

VERSION = "0.32.0+simulated"
MAX_CONTROL_BYTES = 4096

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Operations:
    """Serves the operational paths."""

    def __init__(
        self,
        *,
        engine: Engine,
        metrics: WorkerMetrics,
        faults: Faults,
        ledger: Ledger,
        replies: Replies,
        change_behaviour: Callable[[Behaviour], Awaitable[None]],
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._faults = faults
        self._ledger = ledger
        self._replies = replies
        self._change_behaviour = change_behaviour
        self._routes: dict[str, dict[str, Handler]] = {
            "/health": {"GET": self._health},
            "/ping": {"GET": self._health, "POST": self._health},
            "/version": {"GET": self._version},
            "/load": {"GET": self._load},
            "/metrics": {"GET": self._exposition},
            "/kv_event_sources": {"GET": self._event_sources},
            "/reset_prefix_cache": {"POST": self._reset_prefix_cache},
            "/sim/behaviour": {"GET": self._show_behaviour, "POST": self._set_behaviour},
            "/sim/requests": {"GET": self._show_requests, "DELETE": self._clear_requests},
        }

    def owns(self, path: str) -> bool:
        """Whether ``path`` is an operational one."""
        return path in self._routes

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request to an operational path. Raises ``ApiError``."""
        handler = self._routes[request.path].get(request.method)
        if handler is None:
            return self._replies.detail(request, 405, "Method Not Allowed")
        if request.path.startswith("/sim/") and not from_loopback(request):
            return self._replies.detail(request, 403, "Only from the worker's own machine")
        return await handler(request)

    async def _health(self, request: web.BaseRequest) -> web.StreamResponse:
        return self._replies.empty(request, status=503 if self._faults.behaviour.unhealthy else 200)

    async def _version(self, request: web.BaseRequest) -> web.StreamResponse:
        return self._replies.json(request, {"version": VERSION})

    async def _load(self, request: web.BaseRequest) -> web.StreamResponse:
        return self._replies.json(request, {"server_load": self._engine.in_flight})

    async def _exposition(self, request: web.BaseRequest) -> web.StreamResponse:
        return self._replies.text(request, self._metrics.exposition(), CONTENT_TYPE_LATEST)

    async def _event_sources(self, request: web.BaseRequest) -> web.StreamResponse:
        return self._replies.json(request, self._engine.event_sources())

    async def _reset_prefix_cache(self, request: web.BaseRequest) -> web.StreamResponse:
        self._engine.clear_cache()
        return self._replies.empty(request)

    async def _show_behaviour(self, request: web.BaseRequest) -> web.StreamResponse:
        return self._replies.json(request, self._faults.behaviour)

    async def _set_behaviour(self, request: web.BaseRequest) -> web.StreamResponse:
        behaviour = decode(await read_body(request, limit=MAX_CONTROL_BYTES), Behaviour)
        await self._change_behaviour(behaviour)
        return self._replies.json(request, behaviour)

    async def _show_requests(self, request: web.BaseRequest) -> web.StreamResponse:
        return self._replies.json(request, msgspec.json.encode(self._ledger.shown()))

    async def _clear_requests(self, request: web.BaseRequest) -> web.StreamResponse:
        self._ledger.clear()
        return self._replies.empty(request, status=204)


def from_loopback(request: web.BaseRequest) -> bool:
    """Whether the connection comes from the worker's own machine."""
    return request.remote is not None and ipaddress.ip_address(request.remote).is_loopback
