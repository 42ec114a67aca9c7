"""The HTTP surface: which request goes where, and what happens to it on the way.

Built on aiohttp's low-level server rather than on its applications: the routes are two dicts and the router would cost
more than the answer.
"""

import logging
import socket
import struct
import time
from typing import Any

from aiohttp import web
from aiohttp.http import StreamWriter

from workers.simulated.api.registry import pooled_apis, text_apis
from workers.simulated.errors import ApiError, deliberate, internal
from workers.simulated.faults import Faults
from workers.simulated.generation import Generation
from workers.simulated.ledger import Entry, Ledger
from workers.simulated.operations import Operations
from workers.simulated.replies import Replies, read_body
from workers.simulated.settings import Settings

logger = logging.getLogger(__name__)

_LINGER_ZERO = struct.pack("ii", 1, 0)


class Frontend:
    """Answers every request of one worker."""

    def __init__(
        self,
        *,
        settings: Settings,
        faults: Faults,
        ledger: Ledger,
        generation: Generation,
        operations: Operations,
        replies: Replies,
        max_model_len: int,
    ) -> None:
        self._settings = settings
        self._faults = faults
        self._ledger = ledger
        self._generation = generation
        self._operations = operations
        self._replies = replies
        self._text_apis = text_apis()
        self._max_model_len = max_model_len
        self._pooled_apis = pooled_apis(max_model_len=max_model_len)
        self._started = int(time.time())

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        try:
            if self._operations.owns(request.path):
                return await self._operations.serve(request)
            return await self._serve(request)
        except ApiError as error:
            return self._replies.error(request, error)
        except ConnectionError:
            # The client has gone; aiohttp wants an answer to throw away.
            return web.Response()
        except Exception:
            logger.exception("%s %s failed", request.method, request.path)
            return self._replies.error(request, internal())

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request that the ledger counts and that misbehaviour concerns."""
        entry = Entry(method=request.method, path=request.raw_path, headers=request.headers.items())
        with self._ledger.enter(entry, path=request.path):
            if self._faults.behaviour.mode == "reset":
                _reset(request)
                return web.Response()
            try:
                response = await self._answer(request, entry)
            except ApiError as error:
                response = self._replies.error(request, error)
            entry.status = response.status
        return response

    async def _answer(self, request: web.BaseRequest, entry: Entry) -> web.StreamResponse:
        body = await read_body(request, limit=self._settings.max_body_bytes)
        entry.saw_body(body)
        await self._faults.wait_while(lambda: self._faults.behaviour.mode == "hang")
        failure = self._faults.take_failure()
        if failure is not None:
            raise deliberate(failure)
        return await self._route(request, entry, body)

    async def _route(self, request: web.BaseRequest, entry: Entry, body: bytes) -> web.StreamResponse:
        path, method = request.path, request.method
        text_api = self._text_apis.get(path)
        pooled_api = self._pooled_apis.get(path)
        known = text_api is not None or pooled_api is not None or path == "/v1/models"
        if known and method != ("GET" if path == "/v1/models" else "POST"):
            return self._replies.detail(request, 405, "Method Not Allowed")
        if text_api is not None:
            return await self._generation.generate(request, text_api, body, arrived=entry.arrived)
        if pooled_api is not None:
            return await self._generation.pool(request, pooled_api(body), arrived=entry.arrived)
        if path == "/v1/models":
            return self._replies.json(request, self._models())
        if method == "POST" or path == "/echo" or path.startswith("/echo/"):
            return await self._echo(request, entry)
        return self._replies.detail(request, 404, "Not Found")

    def _models(self) -> dict[str, Any]:
        models = self._settings.models
        named = [(model, None) for model in models] + [(lora, models[0]) for lora in self._settings.loras]
        cards = [
            {
                "id": name,
                "object": "model",
                "created": self._started,
                "owned_by": "vllm",
                "root": name,
                "parent": parent,
                "max_model_len": None if parent else self._max_model_len,
            }
            for name, parent in named
        ]
        return {"object": "list", "data": cards}

    async def _echo(self, request: web.BaseRequest, entry: Entry) -> web.StreamResponse:
        """Say what arrived; with ``x-sim-trailer: name=value`` the answer is chunked and ends in that trailer."""
        shown = self._replies.json(request, entry.shown())
        trailer = request.headers.get("x-sim-trailer")
        writer = request.writer
        if trailer is None or not isinstance(writer, StreamWriter) or request.transport is None:
            return shown
        name, _, value = trailer.partition("=")
        response = web.StreamResponse(headers=self._replies.headers(request) | {"Trailer": name})
        await response.prepare(request)
        assert isinstance(shown.body, bytes)
        await response.write(shown.body)
        request.transport.write(f"0\r\n{name}: {value}\r\n\r\n".encode("latin-1"))
        # The last chunk has been written by hand, because aiohttp has no trailers; it must not write another.
        writer.chunked = False
        await response.write_eof()
        return response


def _reset(request: web.BaseRequest) -> None:
    """End the connection with a TCP reset."""
    transport = request.transport
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    transport.abort()
