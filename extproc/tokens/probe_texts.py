"""Texts on which tokenizers are compared when they are loaded: short, many, and unpleasant.

Deterministic, so that every process comes to the same verdict.
"""

import random
from collections.abc import Iterator, Sequence

_PIECES = (
    "the quick brown fox", "Hello, world!", "don't you'll WE'VE I'm", " leading", "trailing ", "  two  spaces  ",
    "\n", "\n\n", "\r\n", "\t", " \n ", "\u00a0", "\u2028", "0", "7", "42", "1234567890", "3.14159", "1,000,000",
    "$%&/()=?", "...", "--", "==>", "def f(x):\n    return x ** 2\n", '{"a": [1, 2.5, null, "b\\n"]}',
    "<p class='x'>&amp;</p>", "http://example.org/a?b=c#d", "CamelCaseAndsnake_case", "ALLCAPS",
    "naïve café", "Straße", "ÀÉÎõü", "e\u0301a\u0308", "\u0301", "ﬁ ﬀ ½ ² Ⅷ ＡＢＣ",
    "Привет, мир", "γειά σου", "שלום", "مرحبا بالعالم", "हिन्दी में", "ภาษาไทย",
    "你好，世界。", "日本語のテキスト", "한국어 텍스트",
    "👍", "👩\u200d👩\u200d👧", "🏳\ufe0f\u200d🌈", "🇩🇪🇫🇷", "👋🏽", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "\U0001f9ff",
    "\ufffd", "\u200b", "\u200d", "\ufeff", "\x00", "\x07", "\x7f", "\u0085",
    "▁", "▁▁x", "Ġ", "##ing", "[UNK]", "<unk>", "<|", "|>", "<", ">", "</", "[INST", "<|im_",
    "a" * 70, "ab" * 40, " " * 33, "\n" * 17, "!" * 21,
)  # fmt: skip


def probe_texts(added_tokens: Sequence[str], *, count: int = 160, seed: int = 7) -> Iterator[str]:
    """Yield every piece, every added token in several surroundings, and ``count`` mixtures of all of them."""
    rng = random.Random(seed)  # noqa: S311 - it makes test texts
    yield ""
    yield from _PIECES
    for token in added_tokens:
        yield from (token, f"a{token}b", f" {token} ", f"{token}{token}", f"\n{token}\n x", token[:-1], token[1:])
    mixed = _PIECES + tuple(added_tokens) * (1 + len(_PIECES) // (4 * max(1, len(added_tokens))))
    for _ in range(count):
        pieces = rng.choices(mixed, k=rng.randint(2, 40))
        yield rng.choice(("", " ", "")).join(pieces)
