"""Chained hashes over the blocks of a prompt: the identity of a prefix, block by block.

An engine caches the keys and values of a prompt in blocks of a fixed number of tokens, and a block can be used again
only where everything before it is the same. So the hash of block ``i`` stands for the whole prefix that ends with it::

    h(-1) = root                                    everything besides the tokens that sets prefixes apart
    h(i)  = h(i-1) + mix(sum of coefficient * token in block i + i * step)      modulo 2**64

The sum makes the chain a cumulative sum, so numpy computes all blocks of a prompt at once, and a chain can be continued
from any block of it: what a conversation adds is hashed alone. It is not a cryptographic hash: a collision costs a
wrong guess about a cache, never a wrong answer.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import xxhash

Ids = npt.NDArray[np.uint32]
Hashes = npt.NDArray[np.uint64]

HASH_SEED = 0
_LONGEST_BLOCK = 1024

_POSITION_STEP = np.uint64(0x9E3779B97F4A7C15)
_STEPS = np.arange(1 << 14, dtype=np.uint64) * _POSITION_STEP
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_FIRST_SHIFT, _SECOND_SHIFT = np.uint64(32), np.uint64(29)
# Odd, so that no bit of a token is lost in its product.
_COEFFICIENTS = np.random.Generator(np.random.PCG64(0x6C6C6D)).integers(
    0, 1 << 64, _LONGEST_BLOCK, dtype=np.uint64
) | np.uint64(1)


def root_hash(*, model: str, lora: str = "", cache_salt: str = "", media: Iterable[bytes] = ()) -> int:
    """Return the start of the chain: prompts with different roots share no block.

    ``media`` are the hashes of the images and other media of the prompt, in order.
    """
    digest = xxhash.xxh3_64(seed=HASH_SEED)
    for part in (model.encode(), lora.encode(), cache_salt.encode(), *media):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.intdigest()


def block_hashes(ids: Ids, *, block_size: int, before: int, first_block: int = 0) -> Hashes:
    """Return the hash of every whole block of ``ids``; what is left over at the end has none.

    ``ids`` starts with block ``first_block`` of the prompt, and ``before`` is the hash of the block before that one:
    the root, when there is none. ``block_size`` is 1 to 1,024 tokens.
    """
    hashes = block_sums(ids, block_size=block_size)
    hashes += _steps(first_block, len(hashes))
    _mix(hashes)
    np.add.accumulate(hashes, out=hashes)
    hashes += np.uint64(before)
    return hashes


def block_sums(ids: Ids, *, block_size: int) -> Hashes:
    """Return what the tokens of every whole block come to, wherever in a prompt it stands: the sum in its hash."""
    count = len(ids) // block_size
    blocks = ids[: count * block_size].reshape(count, block_size).astype(np.uint64)
    sums: Hashes = blocks.dot(_COEFFICIENTS[:block_size])
    return sums


def block_steps(sums: Hashes, places: Hashes) -> Hashes:
    """Return what each block adds to the hash of the block before it.

    ``sums`` are those of the blocks, and ``places`` say which block of its prompt each is, from 0.
    """
    steps: Hashes = places * _POSITION_STEP
    steps += sums
    _mix(steps)
    return steps


def _steps(first: int, count: int) -> Hashes:
    if first + count <= len(_STEPS):
        return _STEPS[first : first + count]
    return np.arange(first, first + count, dtype=np.uint64) * _POSITION_STEP


def _mix(values: Hashes) -> None:
    """Spread every bit of each value over all of it, in place.

    The values are products with random numbers already, whose high bits depend on all of a token, but not the low ones.
    """
    values ^= values >> _FIRST_SHIFT
    values *= _MIX
    values ^= values >> _SECOND_SHIFT
