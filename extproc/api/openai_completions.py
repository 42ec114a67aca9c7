"""``/v1/completions`` (OpenAI)."""

import msgspec

from extproc.api.body import RequestBody


class CompletionRequest(RequestBody, frozen=True, kw_only=True):
    """``prompt`` is a text, texts, token ids or lists of token ids; vLLM takes ``prompt_embeds`` in its place."""

    prompt: str | list[str | int | list[int]] | None = None


decoder = msgspec.json.Decoder(CompletionRequest)
