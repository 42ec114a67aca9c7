"""Safe boundaries: places where a text can be cut so that the ids of the parts are the ids of the whole.

A tokenizer first cuts a text at its added tokens (``<|im_end|>``) and then encodes what is between them, each piece by
itself. So a text may be cut *after an added token*, unless

* the token is looked for after normalisation, takes white space around it along, or matches only between words;
* another added token can begin inside it or before it and swallow it (overlapping tokens);
* the tokenizer treats the start of a text in its own way (a metaspace pre-tokenizer with ``prepend_scheme: first``).

The first two are read from the tokens' declarations; all are tried out on texts, and a token that fails is not used.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from extproc.index.block_hash import Ids
from extproc.tokens.encoder import Encoder
from extproc.tokens.probe_texts import probe_texts

MAX_BOUNDARY_TOKENS = 16
"""Each costs a little for every prompt; templates write a handful."""
MAX_PROBED_TOKENS = 32
"""Tokenizers reserve hundreds of added tokens that no text has; the first ones stand for them in trials."""


class AddedToken(NamedTuple):
    """An added token as a tokenizer declares it."""

    id: int
    content: str
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


class Boundaries:
    """Finds the places after ``tokens``, which must be safe."""

    def __init__(self, tokens: Sequence[AddedToken]) -> None:
        self.tokens = tuple(tokens)
        # Expressions that start with the same byte make one: the regular expression engine then skips to it with
        # memchr, and is some twenty times slower at alternatives without a common start.
        groups: dict[bytes, list[bytes]] = {}
        for token in tokens:
            content = token.content.encode()
            groups.setdefault(content[:1], []).append(content)
        self._patterns = tuple(
            re.compile(b"|".join(re.escape(content) for content in sorted(group, key=len, reverse=True)))
            for group in groups.values()
        )
        # Ids beyond the end are clipped to the last place, which is that of no token.
        self._is_boundary = np.zeros(2 + max((token.id for token in tokens), default=0), dtype=np.bool_)
        self._is_boundary[[token.id for token in tokens]] = True

    def in_text(self, text: bytes, start: int = 0) -> list[int]:
        """Return the offsets in UTF-8 ``text`` that follow a boundary token which begins at ``start`` or later."""
        found = [match.end() for pattern in self._patterns for match in pattern.finditer(text, start)]
        if len(self._patterns) > 1:
            found.sort()
        return found

    def in_ids(self, ids: Ids) -> npt.NDArray[np.int64]:
        """Return the positions in ``ids`` that follow a boundary token, in order."""
        return self._is_boundary.take(ids, mode="clip").nonzero()[0] + 1


def overlap(one: str, other: str) -> bool:
    """Whether matches of two different tokens could share a part of a text."""
    if one in other or other in one:
        return True
    shorter = min(len(one), len(other))
    return any(one.endswith(other[:size]) or other.endswith(one[:size]) for size in range(1, shorter))


def overlaps_itself(token: str) -> bool:
    """Whether two matches of a token could share a part of a text."""
    return any(token.endswith(token[:size]) for size in range(1, len(token)))


def safe_tokens(
    candidates: Sequence[AddedToken], *, added: Sequence[AddedToken], normalizes: bool, encoder: Encoder
) -> list[AddedToken]:
    """Return those of ``candidates`` after which a text may be cut.

    ``added`` are all added tokens of the tokenizer; ``normalizes`` says whether it changes a text before it looks for
    the tokens that are declared ``normalized``.
    """
    declared = [
        token
        for token in candidates
        if not (token.lstrip or token.rstrip or token.single_word or (token.normalized and normalizes))
        and not any(overlap(token.content, other.content) for other in added if other is not token)
        and not overlaps_itself(token.content)
    ]
    texts = list(probe_texts([token.content for token in added[:MAX_PROBED_TOKENS]], count=40))
    return [token for token in declared if _is_additive(token.content, texts, encoder)]


def _is_additive(token: str, texts: Sequence[str], encoder: Encoder) -> bool:
    for before, after in zip(texts[::-1], texts, strict=True):
        whole = encoder.encode(before + token + after)
        parts = np.concatenate([encoder.encode(before + token), encoder.encode(after)])
        if not np.array_equal(whole, parts):
            return False
    return True
