"""A tokenizer from a tiktoken file: lines of a base64 token and its rank, a split pattern, special tokens.

The merges that byte-pair encoding needs are not in the file; they follow from the ranks, as two tokens are merged
exactly where their join is a token.
"""

import base64
import binascii
from collections.abc import Mapping
from types import MappingProxyType

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

PATTERNS: Mapping[str, str] = MappingProxyType(
    {
        "gpt2": r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
        "cl100k": r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"""
        r"""| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
        "qwen": r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"""
        r"""| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
        "o200k": r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"""
        r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)?"""
        r"""|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"""
        r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)?"""
        r"""|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
    }
)
DEFAULT_PATTERN = "cl100k"
"""What `transformers` splits with where nothing else is said."""

_PRINTABLE = (*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1))


def read_tiktoken(content: bytes, *, pattern: str, special_tokens: Mapping[int, str]) -> Tokenizer:
    """Build a tokenizer; ``pattern`` is one of :data:`PATTERNS` or a regular expression.

    Ids between those of the file and those of ``special_tokens`` are filled with reserved tokens, as `transformers`
    does. Raises ``ValueError`` naming the line that cannot be read.
    """
    ranks = _ranks(content)
    spelling = _byte_spelling()
    spelled = {token: "".join(spelling[byte] for byte in token) for token in ranks}
    vocabulary = {spelled[token]: rank for token, rank in ranks.items()}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=_merges(ranks, spelled), ignore_merges=True))
    split = pre_tokenizers.Split(Regex(PATTERNS.get(pattern, pattern)), behavior="isolated", invert=False)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    first, last = len(ranks), max(special_tokens, default=-1)
    tokenizer.add_special_tokens(
        [
            AddedToken(special_tokens.get(number, f"<|reserved_token_{number}|>"), normalized=False, special=True)
            for number in range(first, last + 1)
        ]
    )
    return tokenizer


def _ranks(content: bytes) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise ValueError(f"line {number:,} is no base64 token and its rank") from error
    if sorted(ranks.values()) != list(range(len(ranks))) or not ranks:
        raise ValueError("the ranks are not the numbers from 0 on, each once")
    return ranks


def _merges(ranks: Mapping[bytes, int], spelled: Mapping[bytes, str]) -> list[tuple[str, str]]:
    merges = []
    for token, rank in ranks.items():
        pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        for left, right in pairs:
            if left in ranks and right in ranks:
                merges.append((rank, ranks[left], ranks[right], spelled[left], spelled[right]))
    merges.sort()
    return [(left, right) for _, _, _, left, right in merges]


def _byte_spelling() -> dict[int, str]:
    """Return the character that stands for each byte in a byte-level vocabulary (the table is GPT-2's)."""
    spelling = {byte: chr(byte) for byte in _PRINTABLE}
    unprintable = (byte for byte in range(256) if byte not in spelling)
    return spelling | {byte: chr(256 + place) for place, byte in enumerate(unprintable)}
