"""Small tokenizers of every family that engines serve, trained on the spot and the same in every process.

The vocabularies come from the sources and manuals of the standard library, so they are the same for one release of
Python only. Those of WordPiece and Unigram are made without their trainers, whose results differ from run to run.
"""

import json
import math
import sysconfig
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

Merges = list[tuple[str, str]]

_SOURCES = (
    "pydoc_data/topics.py", "argparse.py", "ast.py", "asyncio/base_events.py", "datetime.py", "doctest.py",
    "inspect.py", "typing.py",
)  # fmt: skip
_SOURCE_CHARACTERS = 120_000
_SENTENCES = (
    "The quick brown fox doesn't jump; we'll see what they've done, I'm sure.\n",
    "Der Überfluß an Größe läßt grüßen. Où est l'été, garçon? ¿Dónde está el niño?\n",
    "Привет, мир! Как дела? Γειά σου Κόσμε. שלום עולם. مرحبا بالعالم.\n",
    "你好，世界。今天天气很好，我们去公园吧。日本語のテキストです。한국어 문장입니다.\n",
    "नमस्ते दुनिया। สวัสดีชาวโลก 👍👩\u200d👩\u200d👧\u200d👦🇩🇪👋🏽 e\u0301a\u0308 ﬁ ½ Ⅷ\n",
)
_BASE_SIZE = 4000

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_PATTERN = LLAMA3_PATTERN.replace("{1,3}", "")

LLAMA3_TOKENS = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|finetune_right_pad_id|>",
    "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>",
)  # fmt: skip
QWEN_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN_WORDS = ("<tool_call>", "</tool_call>", "<think>", "</think>")
"""Added tokens of Qwen that are not special."""
OVERLAPPING_TOKENS = ("<|im_end|><|im_start|>", "|><|")
NORMALIZED_TOKEN = "<|Turn|>"
LLAMA2_TOKENS = ("<unk>", "<s>", "</s>")
MISTRAL_TOKENS = (
    *LLAMA2_TOKENS, "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
)  # fmt: skip
GEMMA_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>")
GEMMA_WORDS = (*("\n" * n for n in range(1, 9)), *("▁" * n for n in range(2, 9)), "<table>", "<h1>")
"""Added tokens of Gemma that are not special."""
WORDPIECE_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<|turn|>")
UNIGRAM_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<|turn|>")


def llama3() -> Tokenizer:
    """Byte-level BPE that takes whole words from its vocabulary, and starts a text with a BOS."""
    tokenizer = _byte_level(LLAMA3_PATTERN, ignore_merges=True)
    _add(tokenizer, LLAMA3_TOKENS)
    trim = processors.ByteLevel(trim_offsets=False)
    tokenizer.post_processor = processors.Sequence([trim, _template(tokenizer, "<|begin_of_text|> $A")])
    return tokenizer


def qwen(
    *, lstrip: Sequence[str] = (), rstrip: Sequence[str] = (), more: Sequence[str] = (), prefix_space: bool = False
) -> Tokenizer:
    """Byte-level BPE for ChatML without a BOS; the tokens named in ``lstrip`` or ``rstrip`` take white space along."""
    tokenizer = _byte_level(QWEN_PATTERN, prefix_space=prefix_space)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens([
        AddedToken(token, normalized=False, special=True, lstrip=token in lstrip, rstrip=token in rstrip)
        for token in (*QWEN_TOKENS, *more)
    ])  # fmt: skip
    _add(tokenizer, QWEN_WORDS, special=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def normalized_special() -> Tokenizer:
    """A tokenizer without case, and a special token that is looked for in the text without case."""
    tokenizer = qwen()
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.add_special_tokens([AddedToken(NORMALIZED_TOKEN, normalized=True, special=True)])
    return tokenizer


def metaspace(prepend_scheme: str) -> Tokenizer:
    """BPE with a byte fallback where a blank is written ``▁``, and one is put before the text."""
    tokenizer = _sentence_level(MISTRAL_TOKENS, special=MISTRAL_TOKENS)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme, split=False)
    tokenizer.decoder = _sentence_decoder(strip=1)
    tokenizer.post_processor = _template(tokenizer, "<s> $A")
    return tokenizer


def llama2_legacy() -> Tokenizer:
    """What :func:`metaspace` was before: the normalizer writes the ``▁``, and puts one before every piece of text."""
    tokenizer = _sentence_level(LLAMA2_TOKENS, special=LLAMA2_TOKENS)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = _sentence_decoder(strip=1)
    tokenizer.post_processor = _template(tokenizer, "<s> $A")
    return tokenizer


def gemma() -> Tokenizer:
    """BPE with a byte fallback and no ``▁`` before the text; runs of white space are added tokens."""
    tokenizer = _sentence_level((*GEMMA_TOKENS, *GEMMA_WORDS), special=GEMMA_TOKENS)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = _sentence_decoder(strip=0)
    tokenizer.post_processor = _template(tokenizer, "<bos> $A")
    return tokenizer


def wordpiece() -> Tokenizer:
    """BERT's way: no case, and a text between two special tokens."""
    vocabulary = {token: number for number, token in enumerate((*WORDPIECE_TOKENS, *_wordpieces()))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    _add(tokenizer, WORDPIECE_TOKENS)
    tokenizer.post_processor = _template(tokenizer, "[CLS] $A [SEP]")
    return tokenizer


def unigram() -> Tokenizer:
    """XLM-R's way: the likeliest pieces, after a normalizer that changes much."""
    pieces = list(_sentence_pieces()[0])
    # Rare pieces are unlikely, as Zipf's law has it; long pieces beat what they are made of.
    scored = [(piece, -math.log(rank + 10)) for rank, piece in enumerate(pieces)]
    vocabulary = [(token, 0.0) for token in UNIGRAM_TOKENS] + scored
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=UNIGRAM_TOKENS.index("<unk>"), byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    split = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.decoder = decoders.Metaspace()
    _add(tokenizer, UNIGRAM_TOKENS)
    tokenizer.post_processor = _template(tokenizer, "<s> $A </s>")
    return tokenizer


def ranks() -> list[bytes]:
    """Return the tokens of a tiktoken file, by rank; its split pattern is that of ``cl100k_base``."""
    vocabulary = json.loads(_byte_level(LLAMA3_PATTERN).to_str())["model"]["vocab"]
    byte_of = {spelled: byte for byte, spelled in _byte_spelling().items()}
    return [bytes(byte_of[letter] for letter in token) for token in sorted(vocabulary, key=vocabulary.__getitem__)]


def _add(tokenizer: Tokenizer, tokens: Iterable[str], *, special: bool = True) -> None:
    added = [AddedToken(token, normalized=False, special=special) for token in tokens]
    if special:
        tokenizer.add_special_tokens(added)
    else:
        tokenizer.add_tokens(added)


def _template(tokenizer: Tokenizer, single: str) -> Any:  # noqa: ANN401 - of a class that has no name here
    specials = [token for token in single.split() if token != "$A"]
    return processors.TemplateProcessing(
        single=single, special_tokens=[(token, tokenizer.token_to_id(token)) for token in specials]
    )


def _byte_level(pattern: str, *, ignore_merges: bool = False, prefix_space: bool = False) -> Tokenizer:
    vocabulary, merges = _byte_level_pieces(pattern)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = _byte_level_split(pattern, prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _byte_level_split(pattern: str, *, prefix_space: bool = False) -> Any:  # noqa: ANN401 - as above
    if prefix_space:
        return pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _sentence_level(first: Sequence[str], *, special: Sequence[str]) -> Tokenizer:
    """Make BPE whose vocabulary starts with ``first``, which are added tokens, and the bytes to fall back on."""
    pieces, merges = _sentence_pieces()
    tokens = dict.fromkeys((*first, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces))
    vocabulary = {token: number for number, token in enumerate(tokens)}
    model = models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    _add(tokenizer, special)
    _add(tokenizer, [token for token in first if token not in special], special=False)
    return tokenizer


def _sentence_decoder(*, strip: int) -> Any:  # noqa: ANN401 - as above
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*steps, decoders.Strip(" ", strip, 0)] if strip else steps)


@cache
def _byte_level_pieces(pattern: str) -> tuple[dict[str, int], Merges]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _byte_level_split(pattern)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=_BASE_SIZE, initial_alphabet=alphabet, show_progress=False)
    return _trained_pieces(tokenizer, trainer)


@cache
def _sentence_pieces() -> tuple[dict[str, int], Merges]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Metaspace(split=False),
        pre_tokenizers.Split("\n", "removed"),
        pre_tokenizers.Split(Regex("▁*[^▁]+|▁+"), "isolated"),
    ])  # fmt: skip
    trainer = trainers.BpeTrainer(vocab_size=_BASE_SIZE, limit_alphabet=300, show_progress=False)
    return _trained_pieces(tokenizer, trainer)


@cache
def _wordpieces() -> tuple[str, ...]:
    """Return letters, frequent words and frequent ends of words. The trainer of this model breaks ties by chance."""
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    texts = (normalizer.normalize_str(text) for text in _corpus())
    words = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(text))
    ends: Counter[str] = Counter()
    for word, count in words.items():
        ends.update({f"##{word[-size:]}": count for size in range(2, min(5, len(word)))})
    letters = sorted({letter for word in words for letter in word})
    frequent = [piece for found in (words, ends) for piece, _ in sorted(found.items(), key=_by_count)[:1500]]
    return (*dict.fromkeys((*letters, *(f"##{letter}" for letter in letters), *frequent)),)


def _by_count(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _trained_pieces(tokenizer: Tokenizer, trainer: Any) -> tuple[dict[str, int], Merges]:  # noqa: ANN401 - as above
    tokenizer.train_from_iterator(_corpus(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocabulary = sorted(model["vocab"].items(), key=lambda item: item[1])
    return dict(vocabulary), [(left, right) for left, right in model["merges"]]


@cache
def _corpus() -> tuple[str, ...]:
    library = Path(sysconfig.get_paths()["stdlib"])
    sources = (library.joinpath(name).read_text(encoding="utf-8")[:_SOURCE_CHARACTERS] for name in _SOURCES)
    return (*sources, *(_SENTENCES * 20))


def _byte_spelling() -> dict[int, str]:
    """Return the character that stands for each byte in a byte-level vocabulary."""
    printable = (*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1))
    others = (byte for byte in range(256) if byte not in printable)
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + place) for place, byte in enumerate(others)}
