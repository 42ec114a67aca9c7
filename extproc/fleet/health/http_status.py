"""The status of one HTTP answer, and nothing else of it.

A probe wants three digits. An HTTP client that also understands headers, bodies, cookies and pools costs four times the
CPU for them, and probes are most of what an idle service does.
"""

import asyncio

from extproc.fleet.worker_http import MAX_STATUS_LINE_BYTES, get_request, read_status


async def fetch_status(*, host: str, port: int, path: str) -> int:
    """``GET`` a path over a connection of its own and return the status.

    Raises ``OSError`` when there is no connection or it ends early, and ``ValueError`` when the answer is not HTTP.
    Sets no time limit.
    """
    transport, answer = await asyncio.get_running_loop().create_connection(_Answer, host, port)
    try:
        transport.write(get_request(host=host, port=port, path=path))
        return await answer.status
    finally:
        # What has come of the body is dropped, and nobody waits for the rest.
        transport.abort()


class _Answer(asyncio.Protocol):
    """Reads up to the end of the status line."""

    def __init__(self) -> None:
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._received = b""

    def data_received(self, data: bytes) -> None:
        if self.status.done():
            return
        self._received += data
        if b"\n" in self._received or len(self._received) > MAX_STATUS_LINE_BYTES:
            try:
                _, status = read_status(self._received)
            except ValueError as error:
                self.status.set_exception(error)
            else:
                self.status.set_result(status)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.status.done():
            self.status.set_exception(exc or ConnectionError("the connection ended before an answer"))
            # Marks it as seen: cancelled while connecting, the caller is not there to see it.
            self.status.exception()
