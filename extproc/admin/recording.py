"""The admin page by which `extproc record` lets the routers write down what they route, for a while."""

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec
from aiohttp import web

from extproc.errors import ExtprocError
from extproc.recording.control import RecordingStatus, RecordingWanted


class RecordingRefused(ExtprocError):  # noqa: N818 - it is an answer
    """A recording cannot begin; the message says why."""


class RecordingService(Protocol):
    """Recordings as the observer orders them. The calls look at a directory and are made on threads."""

    def begin(self, wanted: RecordingWanted) -> RecordingStatus:
        """Let all routers record; raises :class:`RecordingRefused`."""

    def end(self, recording: str | None) -> RecordingStatus:
        """Let no router record any more; where a ``recording`` is named, only if it is that one."""

    def status(self) -> RecordingStatus:
        """Return what is recorded."""


class RecordingPages:
    """The handlers of ``/recording``."""

    def __init__(self, service: RecordingService, *, answer: Callable[..., web.Response]) -> None:
        self._service = service
        self._answer = answer
        self._one_at_a_time = asyncio.Lock()

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/recording", self._show)
        app.router.add_post("/recording", self._begin)
        app.router.add_delete("/recording", self._end)

    async def _show(self, _request: web.Request) -> web.Response:
        return self._answer(msgspec.to_builtins(await asyncio.to_thread(self._service.status)))

    async def _begin(self, request: web.Request) -> web.Response:
        try:
            wanted = msgspec.json.decode(await request.read(), type=RecordingWanted)
        except msgspec.DecodeError as error:
            return self._answer({"error": str(error)}, status=400)
        async with self._one_at_a_time:
            try:
                status = await asyncio.to_thread(self._service.begin, wanted)
            except RecordingRefused as refused:
                return self._answer({"error": str(refused)}, status=409)
        return self._answer(msgspec.to_builtins(status))

    async def _end(self, request: web.Request) -> web.Response:
        recording = request.query.get("recording")
        async with self._one_at_a_time:
            return self._answer(msgspec.to_builtins(await asyncio.to_thread(self._service.end, recording)))
