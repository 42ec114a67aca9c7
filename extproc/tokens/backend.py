"""Which encoder a tokenizer gets: the fast one where it has shown that it gives the reference's ids."""

from typing import Literal, NamedTuple

import numpy as np

from extproc.tokens.encoder import Encoder, FastEncoder, ReferenceEncoder
from extproc.tokens.probe_texts import probe_texts
from extproc.tokens.tokenizer_file import TokenizerFile

Reason = Literal["", "configured", "unsupported", "differs"]
"""Why the reference is used: it was asked for; `fastokens` cannot load the tokenizer; it gives other ids. Empty: it is
not used."""

_PROBED_TOKENS = 64


class Backend(NamedTuple):
    """An encoder and, where it is not the fast one, why."""

    encoder: Encoder
    reason: Reason


def choose_backend(file: TokenizerFile, wanted: Literal["auto", "tokenizers"]) -> Backend:
    """Choose by trying: both encoders must give the same ids for every one of some hundred texts."""
    reference = ReferenceEncoder(file.reference)
    if wanted == "tokenizers":
        return Backend(reference, "configured")
    try:
        fast = FastEncoder(file.reference.to_str())
    except ValueError:
        return Backend(reference, "unsupported")
    return Backend(fast, "") if _agree(fast, reference, file) else Backend(reference, "differs")


def _agree(fast: Encoder, reference: Encoder, file: TokenizerFile) -> bool:
    for text in probe_texts([token.content for token in file.added[:_PROBED_TOKENS]]):
        expected = reference.encode(text)
        try:
            if not np.array_equal(fast.encode(text), expected):
                return False
        except ValueError:
            return False
    return True
