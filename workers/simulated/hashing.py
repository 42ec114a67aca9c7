"""Names of blocks: each hash stands for all tokens up to the end of its block, and for whose they are."""

import xxhash

from workers.simulated.api.base import BYTES_PER_TOKEN


def root_hash(*, lora: str, cache_salt: str) -> int:
    """Return what the chain of a prompt starts from: equal tokens of another adapter or salt are other blocks."""
    return xxhash.xxh3_64_intdigest(f"{len(lora)}:{lora}{cache_salt}".encode()) if lora or cache_salt else 0


def block_hashes(ids: bytes, *, block_size: int, root: int) -> tuple[int, ...]:
    """Return a 64-bit hash for each whole block of ``block_size`` tokens."""
    block_bytes = block_size * BYTES_PER_TOKEN
    digest = xxhash.xxh3_64_intdigest
    hashes = []
    parent = root
    for start in range(0, len(ids) - block_bytes + 1, block_bytes):
        parent = digest(ids[start : start + block_bytes], parent)
        hashes.append(parent)
    return tuple(hashes)
