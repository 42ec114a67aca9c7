"""vLLM's ``/score`` and ``/v1/rerank``: texts compared with texts.

Their inputs have many shapes, so only the model is required.
"""

import msgspec

from extproc.api.body import RequestBody


class ScoringRequest(RequestBody, frozen=True, kw_only=True):
    """A query and documents, or pairs of texts."""

    query: str | dict[str, msgspec.Raw] | None = None
    documents: list[str | dict[str, msgspec.Raw]] | dict[str, msgspec.Raw] | None = None


decoder = msgspec.json.Decoder(ScoringRequest)
