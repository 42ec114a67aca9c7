"""The admin HTTP server: metrics, health, state, tokens, recordings.

It shows; all that it can change is to empty the cache, and to let the routers record for a while where the
configuration allows that.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from extproc.admin.recording import RecordingPages, RecordingService
from extproc.admin.state import ServiceState
from extproc.admin.tokens import TokenPages, TokenService
from extproc.errors import StartupError

logger = logging.getLogger(__name__)

PAGES = {
    "/metrics": "Prometheus metrics of the whole service.",
    "/health": "200 while this process lives.",
    "/readiness": "200 when requests can be routed, else 503 with the reasons.",
    "/workers": "Every known worker with its state, health, load, engine and breaker.",
    "/processes": "Every process with its state, heartbeat and streams.",
    "/caches": "How full the token cache is; `POST /caches/flush` empties it.",
    "/tokenize": "`POST` a body like that of vLLM's `/tokenize`: its text, ids, boundaries, cache result and timings.",
    "/recording": "What is recorded; `POST` and `DELETE` begin and end a recording, see `extproc record`.",
}
CLOSE_TIMEOUT_SECS = 1.0
MAX_REQUEST_BYTES = 16 << 20


class AdminServer:
    """Serves ``PAGES`` on ``address`` from :meth:`start` to :meth:`close`.

    ``address`` is ``HOST:PORT``; port 0 takes any free one.
    """

    def __init__(
        self,
        *,
        address: str,
        state: ServiceState,
        registry: CollectorRegistry,
        tokens: TokenService,
        recording: RecordingService,
    ) -> None:
        self._address = address
        self._state = state
        self._registry = registry
        self._tokens = TokenPages(tokens, answer=_json)
        self._recording = RecordingPages(recording, answer=_json)
        self._runner = web.AppRunner(
            self._app(), access_log=None, handle_signals=False, shutdown_timeout=CLOSE_TIMEOUT_SECS
        )

    async def start(self) -> str:
        """Listen and return the bound ``HOST:PORT``; raises :class:`StartupError` when the address cannot be bound."""
        host, _, port = self._address.rpartition(":")
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host.strip("[]"), int(port)).start()
        except OSError as error:
            await self._runner.cleanup()
            raise StartupError(f"admin.address: cannot listen on {self._address}: {error.strerror or error}") from error
        return f"{host}:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        """Stop listening and end what is being served."""
        await self._runner.cleanup()

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[_answer_errors_in_json], client_max_size=MAX_REQUEST_BYTES)
        app.router.add_get("/", self._index)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/health", self._health)
        app.router.add_get("/readiness", self._readiness)
        app.router.add_get("/workers", self._workers)
        app.router.add_get("/processes", self._processes)
        self._tokens.add_to(app)
        self._recording.add_to(app)
        return app

    async def _index(self, _request: web.Request) -> web.Response:
        return _json({"service": "llm-extproc", "pages": PAGES})

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        # Adding up the files of many processes takes longer than the event loop, whose heartbeat is watched, may stand.
        body = await asyncio.to_thread(encode, self._registry)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _health(self, _request: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def _readiness(self, _request: web.Request) -> web.Response:
        reasons = []
        if not self._state.fleet_generation:
            reasons.append("no fleet is published")
        if not any(process.role == "router" and process.ready for process in self._state.processes()):
            reasons.append("no router is ready")
        if reasons:
            return _json({"status": "not ready", "reasons": reasons}, status=503)
        return _json({"status": "ready"})

    async def _workers(self, _request: web.Request) -> web.Response:
        totals = self._state.in_flight()
        workers = [
            {
                **msgspec.structs.asdict(worker),
                "in_flight": totals[worker.slot],
                **self._state.worker_row(worker.slot)._asdict(),
            }
            for worker in self._state.workers()
        ]
        return _json({"fleet_generation": self._state.fleet_generation, "workers": workers})

    async def _processes(self, _request: web.Request) -> web.Response:
        return _json({"processes": self._state.processes()})


@web.middleware
async def _answer_errors_in_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        response = _json({"error": error.reason}, status=error.status)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except Exception:
        logger.exception("Admin page %s failed", request.path)
        return _json({"error": "Internal Server Error"}, status=500)


def _json(document: dict[str, Any], *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), status=status, content_type="application/json")
