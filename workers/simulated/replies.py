"""Making HTTP answers: the headers every answer carries, JSON, errors, and bodies read within a limit."""

import msgspec
from aiohttp import web

from workers.simulated.errors import ApiError, body_too_large

_JSON = "application/json"


class Replies:
    """Answers marked with the worker's name and the request's ``X-Request-Id``."""

    def __init__(self, *, worker: str) -> None:
        self._worker = worker

    def headers(self, request: web.BaseRequest, content_type: str = _JSON) -> dict[str, str]:
        """The headers of any answer to ``request``."""
        headers = {"Content-Type": content_type, "x-worker": self._worker}
        request_id = request.headers.get("X-Request-Id")
        if request_id is not None:
            headers["X-Request-Id"] = request_id
        return headers

    def json(self, request: web.BaseRequest, value: object, *, status: int = 200) -> web.Response:
        """Answer ``value`` as JSON; bytes are JSON already."""
        body = value if isinstance(value, bytes) else msgspec.json.encode(value)
        return web.Response(status=status, body=body, headers=self.headers(request))

    def empty(self, request: web.BaseRequest, *, status: int = 200) -> web.Response:
        """Answer a status and nothing else."""
        return web.Response(status=status, headers=self.headers(request))

    def text(self, request: web.BaseRequest, body: bytes, content_type: str) -> web.Response:
        """Answer text of some other kind."""
        return web.Response(body=body, headers=self.headers(request, content_type))

    def detail(self, request: web.BaseRequest, status: int, detail: str) -> web.Response:
        """Answer as vLLM's web framework does where no API is reached."""
        return self.json(request, {"detail": detail}, status=status)

    def error(self, request: web.BaseRequest, error: ApiError) -> web.Response:
        """Answer the error object of vLLM, or of Anthropic's API on its path."""
        if request.path == "/v1/messages":
            shape: object = {"type": "error", "error": {"type": error.kind, "message": error.message}}
        else:
            shape = {
                "error": {
                    "message": error.message,
                    "type": error.kind,
                    "param": error.param,
                    "code": error.status,
                }
            }
        return self.json(request, shape, status=error.status)


async def read_body(request: web.BaseRequest, *, limit: int) -> bytes:
    """Read the body as it came over the wire. Raises ``ApiError``, or ``ConnectionError`` when the client has gone."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size > limit:
            raise body_too_large(limit)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
