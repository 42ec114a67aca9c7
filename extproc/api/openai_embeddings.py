"""``/v1/embeddings`` (OpenAI) and vLLM's ``/pooling``, which takes the same input."""

import msgspec

from extproc.api.body import RequestBody


class EmbeddingRequest(RequestBody, frozen=True, kw_only=True):
    """``input`` is a text, texts, token ids or lists of token ids; vLLM also takes chat ``messages`` in its place."""

    input: str | list[str | int | list[int] | dict[str, msgspec.Raw]] | None = None
    messages: list[dict[str, msgspec.Raw]] | None = None


decoder = msgspec.json.Decoder(EmbeddingRequest)
