"""``/v1/responses`` (OpenAI)."""

import msgspec

from extproc.api.body import RequestBody


class ResponsesRequest(RequestBody, frozen=True, kw_only=True):
    """``input`` is a text or a list of items (messages, tool calls and their results)."""

    input: str | list[dict[str, msgspec.Raw]]
    instructions: str | None = None


decoder = msgspec.json.Decoder(ResponsesRequest)
