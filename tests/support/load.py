"""A load generator that counts every request exactly once: answered, failed, or broken off while being answered."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from extproc.telemetry.tasks import spawn
from tests.support.waiting import until

TIMEOUT_SECS = 60.0


@dataclass
class LoadResult:
    """What became of the requests.

    ``statuses`` counts complete answers by status. ``failures`` describes requests without a complete answer;
    ``broken_off`` those of which the answer had already begun (they are not in ``failures``).
    """

    statuses: Counter[int] = field(default_factory=Counter)
    workers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    broken_off: int = 0

    @property
    def total(self) -> int:
        return sum(self.statuses.values()) + len(self.failures) + self.broken_off

    @property
    def failed(self) -> dict[str, int]:
        """Everything that is not a complete 200, by kind; empty when all is well."""
        bad = {f"status {status}": count for status, count in self.statuses.items() if status != 200}
        return bad | dict(Counter(self.failures))


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class BrokenOffError(Exception):
    """The connection ended after the answer had begun."""


def post(path: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """A whole HTTP/1.1 request."""
    lines = [f"POST {path} HTTP/1.1", "host: llm", "content-type: application/json", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """Read one whole answer; :class:`BrokenOffError` when it ends after its first byte."""
    first = await reader.readline()
    if not first:
        raise ConnectionResetError("connection closed before the answer")
    try:
        headers: dict[str, str] = {}
        while (line := await reader.readline()) != b"\r\n":
            if not line:
                raise BrokenOffError
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        return Answer(int(first.split()[1]), headers, b"".join([part async for part in _body(reader, headers)]))
    except (ConnectionError, asyncio.IncompleteReadError) as error:
        raise BrokenOffError from error


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> AsyncIterator[bytes]:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        yield await reader.readexactly(int(headers.get("content-length", "0")))
        return
    while True:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        if size:
            yield await reader.readexactly(size)
        await reader.readuntil(b"\r\n")
        if not size:
            return


class Load:
    """Clients on keep-alive connections, each sending one request after another until told to stop.

    ``limit`` bounds the requests of all clients together.
    """

    def __init__(self, address: str, request: bytes, *, clients: int, limit: int | None = None) -> None:
        self.result = LoadResult()
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._request = request
        self._clients = clients
        self._left = limit
        self._stopping = False

    async def run(self) -> LoadResult:
        """Run until :meth:`stop` or the limit."""
        await asyncio.gather(*(self._client() for _ in range(self._clients)))
        return self.result

    async def run_for(self, secs: float, *, during: Callable[[], Awaitable[None]] | None = None) -> LoadResult:
        """Run for a time; ``during`` happens after a third of it."""
        task = spawn(self.run(), name="load")
        started = time.monotonic()
        await asyncio.sleep(secs / 3)
        if during is not None:
            await during()
        await asyncio.sleep(max(0.0, started + secs - time.monotonic()))
        self._stopping = True
        return await task

    async def run_until(self, condition: Callable[[], Awaitable[bool]]) -> LoadResult:
        """Run until something holds."""
        task = spawn(self.run(), name="load")
        try:
            await until(condition)
        finally:
            self.stop()
            await task
        return self.result

    def stop(self) -> None:
        """Let every client finish its current request and end."""
        self._stopping = True

    def _take(self) -> bool:
        if self._stopping or self._left == 0:
            return False
        if self._left is not None:
            self._left -= 1
        return True

    async def _client(self) -> None:
        reader: asyncio.StreamReader | None = None
        writer: asyncio.StreamWriter | None = None
        while self._take():
            try:
                async with asyncio.timeout(TIMEOUT_SECS):
                    if reader is None or writer is None:
                        reader, writer = await asyncio.open_connection(self._host, self._port)
                    writer.write(self._request)
                    answer = await read_answer(reader)
            except BrokenOffError:
                self.result.broken_off += 1
                reader = None
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                self.result.failures.append(f"{type(error).__name__}: {error}")
                reader = None
            else:
                self.result.statuses[answer.status] += 1
                self.result.workers[answer.headers.get("x-worker", "-")] += 1
                if answer.headers.get("connection") == "close":
                    reader = None
            if reader is None and writer is not None:
                writer.close()
                writer = None
        if writer is not None:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
