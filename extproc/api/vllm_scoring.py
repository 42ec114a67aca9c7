"""vLLM's ``/score`` and ``/v1/rerank``: texts compared with texts.

Their inputs have many shapes, so only the model is required.
"""

from typing import ClassVar

import msgspec

from extproc.api.body import RequestBody


class ScoringRequest(RequestBody, frozen=True, kw_only=True):
    """A query and documents, or pairs of texts."""

    has_answer: ClassVar[bool] = False

    query: str | dict[str, msgspec.Raw] | None = None
    documents: list[str | dict[str, msgspec.Raw]] | dict[str, msgspec.Raw] | None = None


decoder = msgspec.json.Decoder(ScoringRequest)
