"""The two-level cache: from a text to its ids and block hashes, encoding only what was not seen before.

* Level 0: the whole prompt is known, by its text or by what it was rendered from.
* Level 1: the longest known prefix that ends at a safe boundary (:mod:`extproc.tokens.boundaries`); the rest is
  encoded. What begins nearly every prompt (a BOS, the header of the first turn) is quicker to encode than to find.

All keys are 128-bit hashes, seeded with the store's secret, that begin with the :class:`Namespace`. The key of a prefix
is the hash of its text, so one pass over a text gives the keys of all its prefixes.
"""

import struct
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import xxhash

from extproc.index.block_hash import Hashes, Ids, block_hashes
from extproc.shm.token_rows import Key
from extproc.shm.token_store import MAX_DEPTH, Prefix, TokenStore
from extproc.tokens.boundaries import Boundaries
from extproc.tokens.encoder import Encoder
from extproc.tokens.prompt_tokens import PromptTokens

MAX_KEPT_BOUNDARIES = 1024
"""Of more boundaries in one prompt, the first and the last become entries."""

TAIL_BYTES = 8 << 10

_LENGTH_BYTES = 8
_USEFUL_SHARE = 8
_SAMPLED_ENTRIES = 3
_TWO_WORDS = struct.Struct("=2Q")
# No UTF-8 text contains this byte, so no prefix of a text can have the key of a whole one.
_WHOLE = b"\xff"
_NO_IDS: Ids = np.empty(0, dtype=np.uint32)


class Namespace(NamedTuple):
    """What prompts must share besides their text: ``key`` begins all keys, ``root`` the chain of block hashes."""

    key: bytes
    root: int
    block_size: int


def namespace_key(parts: Iterable[bytes]) -> bytes:
    """Return a key that no other sequence of ``parts`` has."""
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(len(part).to_bytes(_LENGTH_BYTES, "little"))
        digest.update(part)
    return digest.digest()


class PromptCache:
    """The cache of one model in one process.

    Without a ``store`` everything is encoded. A prefix of less than ``min_prefix_bytes`` is used only where it is an
    eighth of the text at least: reading it, and making its extent the parent of what follows, costs more than it saves.
    """

    def __init__(
        self, *, store: TokenStore | None, encoder: Encoder, boundaries: Boundaries, min_prefix_bytes: int = 0
    ) -> None:
        self.store = store
        self.encoder = encoder
        self.boundaries = boundaries
        self.min_prefix_bytes = min_prefix_bytes
        self.mismatched_boundaries = 0
        """Prompts whose text and ids had different numbers of boundary tokens, so that their prefixes were not kept."""

    def key_of(self, parts: Sequence[bytes], namespace: Namespace) -> Key:
        """Return the level 0 key of a prompt that is determined by ``parts``, without looking at its text."""
        digest = xxhash.xxh3_128(namespace.key, seed=self.store.secret if self.store else 0)
        for part in parts:
            digest.update(_WHOLE + len(part).to_bytes(_LENGTH_BYTES, "little"))
            digest.update(part)
        first, second = _TWO_WORDS.unpack(digest.digest())
        return first, second

    def find(self, key: Key, namespace: Namespace) -> PromptTokens | None:
        """Look up a level 0 key."""
        if self.store is None:
            return None
        prefix = self.store.find(key, block_size=namespace.block_size)
        return None if prefix is None else _whole(prefix, namespace)

    def begin(
        self,
        text: str | list[str],
        namespace: Namespace,
        *,
        key: Key | None = None,
        before: Ids = _NO_IDS,
        after: Ids = _NO_IDS,
        exact: bool = True,
    ) -> "Encoding":
        """Look up what is known of ``text``, which may be given in pieces.

        ``key`` is the prompt's key by other means, to be stored beside that of its text; ``before`` and ``after`` are
        ids that surround those of the text (a BOS). Raises ``UnicodeEncodeError`` on a text with lone surrogates.
        """
        pieces = [text] if isinstance(text, str) else text
        return Encoding(self, pieces, _Wanted(namespace, () if key is None else (key,), before, after, exact))


class _Wanted(NamedTuple):
    """What is asked of an encoding besides its text; see :meth:`PromptCache.begin`."""

    namespace: Namespace
    keys: tuple[Key, ...]
    before: Ids
    after: Ids
    exact: bool


class Encoding:
    """One prompt on its way: :meth:`encode` what is ``rest``, then :meth:`finish`.

    ``known`` is the result where nothing is left to do. Everything may run on a thread.
    """

    def __init__(self, cache: PromptCache, pieces: list[str], wanted: _Wanted) -> None:
        self._cache = cache
        self._namespace, self._other_keys, self._before, self._after, self._exact = wanted
        # Piece by piece: ASCII is copied as it is, and any other text is converted letter by letter, which takes some
        # twenty times longer. A few letters would make that the way of the whole.
        self._data = b"".join([piece.encode() for piece in pieces])
        self._prefix: Prefix | None = None
        self._hit = -1
        self.reused_bytes = 0
        self.known: PromptTokens | None = None
        if cache.store is not None:
            self._look_up(cache.store)
        self.rest = self._data[self.reused_bytes :].decode() if self.reused_bytes else "".join(pieces)

    def encode(self) -> Ids:
        """Return the ids of the rest; raises ``ValueError`` when it cannot be encoded."""
        return self._cache.encoder.encode(self.rest)

    def finish(self, rest: Ids) -> PromptTokens:
        """Put the prompt together from what is known and the ids of the rest, and store what is new."""
        namespace, prefix = self._namespace, self._prefix
        new = [rest, self._after] if len(self._after) else [rest]
        if prefix is not None:
            new_ids = rest if len(new) == 1 else np.concatenate(new)
            ids = np.concatenate([*prefix.id_parts, new_ids])
        else:
            new_ids = ids = np.concatenate([self._before, *new]) if len(new) + len(self._before) > 1 else rest
        new_hashes, hashes = self._hash(ids)
        tokens = PromptTokens(
            ids,
            hashes,
            namespace.block_size,
            namespace.root,
            "off" if self._cache.store is None else "miss" if prefix is None else "level_1",
            self._exact,
            text_bytes=len(self._data),
            reused_bytes=self.reused_bytes,
            reused_tokens=0 if prefix is None else prefix.row.tokens,
        )
        # A prompt without tokens has nothing to be found by, and would take room each time.
        if self._cache.store is not None and len(ids):
            self._store(self._cache.store, tokens, rest, new_ids, new_hashes)
        return tokens

    def matches_whole(self, tokens: PromptTokens) -> bool:
        """Encode the whole text, whatever was known of it, and say whether ``tokens`` are its ids."""
        ids = self._cache.encoder.encode(self._data.decode())
        return np.array_equal(np.concatenate([self._before, ids, self._after]), tokens.ids)

    def _look_up(self, store: TokenStore) -> None:
        size = len(self._data)
        # Of a conversation mostly all but the last turn is known, so its end is looked at first.
        for start in (size - TAIL_BYTES, 0) if size > 2 * TAIL_BYTES else (0,):
            self._cut(store, start)
            useful = self._first_useful()
            found, prefix = store.find_last(self._keys[useful:], block_size=self._namespace.block_size)
            if prefix is not None:
                found += useful
                break
        else:
            return
        if found == len(self._keys) - 1:
            self.known = _whole(prefix, self._namespace)._replace(exact=self._exact)
            others = len(self._other_keys)
            store.link(prefix.row, keys=self._other_keys, tokens=[prefix.row.tokens] * others, sizes=[size] * others)
        elif prefix.row.bytes == self._offsets[self._kept[found]]:
            self._prefix, self._hit, self.reused_bytes = prefix, found, prefix.row.bytes

    def _first_useful(self) -> int:
        """Return which of the keys is the first whose prefix is long enough to be worth a look-up."""
        shortest = min(self._cache.min_prefix_bytes, len(self._data) // _USEFUL_SHARE)
        return bisect_left(self._kept, bisect_left(self._offsets, shortest))

    def _cut(self, store: TokenStore, start: int) -> None:
        """Find the boundaries from ``start`` on and the keys of the prefixes that end there, and of the whole text."""
        offsets = self._offsets = self._cache.boundaries.in_text(self._data, start)
        self._kept = _kept(len(offsets))
        digest = xxhash.xxh3_128(self._namespace.key, seed=store.secret)
        update, value = digest.update, digest.digest
        view = memoryview(self._data)
        digests = []
        at = 0
        for ordinal in self._kept:
            offset = offsets[ordinal]
            update(view[at:offset])
            digests.append(value())
            at = offset
        update(view[at:])
        update(_WHOLE)
        digests.append(value())
        self._keys: list[Key] = list(_TWO_WORDS.iter_unpack(b"".join(digests)))

    def _hash(self, ids: Ids) -> tuple[Hashes, Hashes]:
        """Return the hashes of the blocks that end in what is new, and those of all blocks."""
        namespace, prefix = self._namespace, self._prefix
        known = 0 if prefix is None else prefix.blocks
        before = None if prefix is None else prefix.last_hash
        new = block_hashes(
            ids[known * namespace.block_size :],
            block_size=namespace.block_size,
            before=namespace.root if before is None else before,
            first_block=known,
        )
        return new, new if prefix is None else np.concatenate([*prefix.hash_parts, new])

    def _store(self, store: TokenStore, tokens: PromptTokens, rest: Ids, new_ids: Ids, new_hashes: Hashes) -> None:
        prefix, size, length = self._prefix, self._namespace.block_size, len(tokens.ids)
        first = self._hit + 1
        if prefix is not None and (
            self._has_lost_entries(store) or prefix.depth >= MAX_DEPTH + length // store.extent_tokens(size)
        ):
            # Earlier boundaries have lost their entries, or there are too many ancestors: all of it is stored anew.
            self._cut(store, 0)
            prefix, first, new_ids, new_hashes = None, 0, tokens.ids, tokens.block_hashes
            rest = new_ids[len(self._before) : length - len(self._after)]
        positions = self._tokens_at(rest, first, length - len(self._after) - len(rest))
        keys = self._keys[first:-1] if positions else []
        sizes = [self._offsets[ordinal] for ordinal in self._kept[first:]] if positions else []
        whole = [self._keys[-1], *self._other_keys]
        store.put(
            parent=None if prefix is None else prefix.row,
            depth=0 if prefix is None else prefix.depth + 1,
            ids=new_ids,
            hashes=new_hashes,
            block_size=size,
            keys=keys + whole,
            tokens=positions + [length] * len(whole),
            sizes=sizes + [len(self._data)] * len(whole),
        )

    def _tokens_at(self, rest: Ids, first: int, before: int) -> list[int]:
        """Return how many tokens lie before each kept boundary from the one with index ``first`` on.

        ``rest`` are the ids of the text from there on, and ``before`` lie before them. None when text and ids do not
        agree on the number of boundaries.
        """
        passed = self._kept[first - 1] + 1 if first else 0
        wanted = len(self._offsets) - passed
        if not wanted:
            return []
        positions = self._cache.boundaries.in_ids(rest).tolist()
        if len(positions) != wanted:
            self._cache.mismatched_boundaries += 1
            return []
        return [before + positions[at - passed] for at in self._kept[first:]]

    def _has_lost_entries(self, store: TokenStore) -> bool:
        """Whether boundaries before the hit are not entries any more, judged by a few of them."""
        step = self._hit // _SAMPLED_ENTRIES + 1
        return not all(map(store.has, self._keys[: self._hit : step]))


def _kept(count: int) -> Sequence[int]:
    """Return which of ``count`` boundaries become entries."""
    if count <= MAX_KEPT_BOUNDARIES:
        return range(count)
    half = MAX_KEPT_BOUNDARIES // 2
    return (*range(half), *range(count - half, count))


def _whole(prefix: Prefix, namespace: Namespace) -> PromptTokens:
    return PromptTokens(
        prefix.ids,
        prefix.hashes,
        namespace.block_size,
        namespace.root,
        "level_0",
        text_bytes=prefix.row.bytes,
        reused_bytes=prefix.row.bytes,
        reused_tokens=prefix.row.tokens,
    )
