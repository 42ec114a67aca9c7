"""A prompt as pieces of content, and the hashes of its blocks."""

import array
import struct

import numpy as np
import xxhash

from extproc.simulation.loads.load import BLOCK_TOKENS, Blocks

_PIECE = struct.Struct("<QII")


class Prompt:
    """A prompt that grows at its end.

    A content is an id that stands for a text of any length. The hash of a block is made from the hash of the block
    before it and of exactly what the block covers: which tokens of which contents. So the block at the end, which may
    not be full, is another one as soon as the prompt goes on, and all before it stay. What was hashed once is not
    hashed again.
    """

    __slots__ = ("_hash", "_open", "_room", "_whole")

    def __init__(self) -> None:
        self._whole = array.array("Q")
        self._hash = 0
        self._open = b""
        self._room = BLOCK_TOKENS

    @property
    def tokens(self) -> int:
        """Length of the prompt so far."""
        return len(self._whole) * BLOCK_TOKENS + BLOCK_TOKENS - self._room

    def add(self, content: int, tokens: int) -> None:
        """Go on with the first ``tokens`` tokens of a content."""
        done = 0
        while tokens - done >= self._room:
            end = done + self._room
            self._open += _PIECE.pack(content, done, end)
            self._hash = xxhash.xxh3_64_intdigest(self._open, seed=self._hash)
            self._whole.append(self._hash)
            self._open, self._room, done = b"", BLOCK_TOKENS, end
        if done < tokens:
            self._open += _PIECE.pack(content, done, tokens)
            self._room -= tokens - done

    def blocks(self) -> Blocks:
        """Return the hashes of all blocks so far; what is added later does not change them."""
        hashes = self._whole[:]
        if self._open:
            hashes.append(xxhash.xxh3_64_intdigest(self._open, seed=self._hash))
        return np.frombuffer(hashes.tobytes(), dtype=np.uint64)

    def copy(self) -> "Prompt":
        """Return a prompt that begins with this one and grows by itself."""
        other = Prompt()
        other._whole = self._whole[:]
        other._hash, other._open, other._room = self._hash, self._open, self._room
        return other


def beginnings(lengths: list[int], *, first_content: int = 0) -> list[Prompt]:
    """Return a prompt of one content of its own for each length, to be copied by those who share it."""
    prompts = [Prompt() for _ in lengths]
    for place, (prompt, tokens) in enumerate(zip(prompts, lengths, strict=True)):
        prompt.add(first_content + place, tokens)
    return prompts
