"""vLLM's ``/tokenize``: a text or chat messages."""

import msgspec

from extproc.api.body import RequestBody


class TokenizeRequest(RequestBody, frozen=True, kw_only=True):
    """Either ``prompt`` or ``messages``."""

    prompt: str | None = None
    messages: list[dict[str, msgspec.Raw]] | None = None


decoder = msgspec.json.Decoder(TokenizeRequest)
