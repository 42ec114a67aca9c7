"""What turns text into ids: `fastokens`, or the `tokenizers` library, which is the reference.

Both match added tokens in the text and leave the tokens that a post-processor adds (a BOS) to the caller. Both let
other threads run while they encode, and may be used by several threads at once.
"""

from typing import Protocol

import fastokens
import numpy as np
from tokenizers import Tokenizer

from extproc.index.block_hash import Ids

# A panic of native code is a BaseException, and as good as any other fault of an encoder.
INTERRUPTS = (KeyboardInterrupt, SystemExit)


class Encoder(Protocol):
    """Turns text into ids."""

    name: str

    def encode(self, text: str) -> Ids:
        """Return the ids of ``text``; raises ``ValueError`` when it cannot be encoded."""


class FastEncoder:
    """`fastokens`: an order of magnitude faster, and makes no Python object per token."""

    name = "fastokens"

    def __init__(self, document: str) -> None:
        """Take the text of a ``tokenizer.json``; raises ``ValueError`` when it has a part that is not supported."""
        try:
            self._encode = fastokens.Tokenizer.from_json_str(document).encode_batch_flat
        except INTERRUPTS:
            raise
        except BaseException as error:
            raise ValueError(f"fastokens cannot load it: {error}") from error

    def encode(self, text: str) -> Ids:
        """Return the ids of ``text``; raises ``ValueError`` when it cannot be encoded."""
        try:
            return np.frombuffer(self._encode([text])[0], dtype=np.uint32)
        except INTERRUPTS:
            raise
        except BaseException as error:
            raise ValueError(f"fastokens cannot encode it: {type(error).__name__}") from error


class ReferenceEncoder:
    """The `tokenizers` library, which engines use too."""

    name = "tokenizers"

    def __init__(self, tokenizer: Tokenizer) -> None:
        # Of its ways to encode, only those for batches let other threads run.
        self._encode = tokenizer.encode_batch_fast

    def encode(self, text: str) -> Ids:
        """Return the ids of ``text``; raises ``ValueError`` when it cannot be encoded."""
        try:
            return np.array(self._encode([text], add_special_tokens=False)[0].ids, dtype=np.uint32)
        except INTERRUPTS:
            raise
        except BaseException as error:
            raise ValueError(f"tokenizers cannot encode it: {type(error).__name__}") from error
