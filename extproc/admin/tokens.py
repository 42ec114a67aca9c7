"""The admin pages about tokens: what becomes of a prompt, how full the cache is, and emptying it."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec
from aiohttp import web

from extproc.errors import Refusal


class TokenService(Protocol):
    """Tokens as the observer knows them. The calls take their time and are made on threads."""

    def tokenize(self, body: bytes) -> list[Any]:
        """Tokenize a body like that of vLLM's `/tokenize`; raises :class:`~extproc.errors.Refusal`."""

    def caches(self) -> Mapping[str, Any]:
        """Return how full the token cache is, and what the models make of it."""

    def flush(self) -> bool:
        """Empty the token cache; False when it could not be done at this moment."""


class TokenPages:
    """The handlers of ``/tokenize``, ``/caches`` and ``/caches/flush``."""

    def __init__(self, service: TokenService, *, answer: Callable[..., web.Response]) -> None:
        self._service = service
        self._answer = answer
        # Tokenizing here is for people; a flood of it must not take threads and memory.
        self._one_at_a_time = asyncio.Lock()

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_get("/caches", self._caches)
        app.router.add_post("/caches/flush", self._flush)

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            async with self._one_at_a_time:
                prompts = await asyncio.to_thread(self._service.tokenize, body)
        except Refusal as refusal:
            error = {"message": refusal.message, "type": refusal.type, "param": refusal.param, "code": refusal.code}
            return self._answer({"error": error}, status=refusal.status)
        return self._answer({"prompts": msgspec.to_builtins(prompts)})

    async def _caches(self, _request: web.Request) -> web.Response:
        return self._answer(dict(await asyncio.to_thread(self._service.caches)))

    async def _flush(self, _request: web.Request) -> web.Response:
        if await asyncio.to_thread(self._service.flush):
            return self._answer({"flushed": True})
        return self._answer({"error": "A process is just claiming room in the cache; try again."}, status=503)
