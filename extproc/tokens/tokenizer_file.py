"""A tokenizer as the engine builds it from its files: the vocabulary file, amended by its configuration.

The rules are those of `transformers`, found by trying it:

* Added tokens that only the configuration names are added, in the order of their ids; their properties there count.
* With ``added_tokens_decoder`` in the configuration, ``special_tokens_map.json`` and ``added_tokens.json`` are ignored;
  without it, the former overrides the configuration.
* The class ``LlamaTokenizer`` takes only the vocabulary from the file and splits at metaspaces in its own way. Classes
  that come to the same as their usual files (``Qwen2Tokenizer``, ``GemmaTokenizer``) are left alone.
* ``add_bos_token`` and ``add_eos_token`` count for a tiktoken file only; a ``tokenizer.json`` has a post-processor.
* Truncation and padding are left to the caller.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tokenizers import AddedToken as TokenizersAddedToken
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from extproc.index.block_hash import Ids
from extproc.tokens.boundaries import AddedToken

SPECIAL_TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The names under which `transformers` gives special tokens to a chat template."""

_KEEP_THE_FILE = frozenset(
    (
        "EvollaModel", "arctic", "aria", "beam", "bigbird_pegasus", "camembertv2-base", "canary", "chatlm",
        "cohere_asr", "ernie4_5", "ernie4_5_moe", "flex_olmo", "fuyu", "glm", "glm4", "glm4_moe", "glm4_moe_lite",
        "glm4v", "glm4v_moe", "glm_image", "glmasr", "got_ocr2", "gpt_bigcode", "gradium_phonon_tts", "granite",
        "granitemoe", "granitemoehybrid", "granitemoeshared", "h2ovl_chat", "hyperclovax", "hyperclovax_vlm",
        "internlm2", "internlm3", "iquestcoder", "jamba", "kimi_k25", "kimi_linear", "kosmos-2", "llava",
        "llava_next", "mimo_v2_flash", "minicpm3", "minicpm_ocr", "minicpmv", "minicpmv4_6", "minicpmv4_7",
        "minimax_m2", "ministral", "ministral3", "mistral", "mistral3", "mistral_large4", "mixtral", "modernbert",
        "modernbert-decoder", "molmo", "molmo2", "nemo_speechlm", "nemotron", "nvfp4", "nystromformer", "olmo2",
        "olmo3", "olmo_hybrid", "omniasr", "opencua", "openvla", "paddleocr_vl", "pegasus_x", "persimmon", "phi3",
        "phi3_v", "phimoe", "pix2struct", "pixtral", "pocket_tts", "smolvlm", "stablelm", "step3_vl", "umt5",
        "vipllava", "voxtral", "voxtral_realtime", "xlm-roberta-xl",
    )
)  # fmt: skip
"""Types of models with which `transformers` takes the whole file although the class is ``LlamaTokenizer``."""

_LLAMA_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
"""What the class ``LlamaTokenizer`` calls its special tokens where the configuration does not."""


class TokenizerFile(NamedTuple):
    """A tokenizer, ready to be given to an encoder.

    ``special_tokens`` are the named ones; ``before`` and ``after`` the ids that a post-processor puts around a prompt;
    ``normalizes`` says whether a text is changed before the tokens declared ``normalized`` are looked for.
    """

    reference: Tokenizer
    added: tuple[AddedToken, ...]
    special_tokens: Mapping[str, str]
    before: Ids
    after: Ids
    normalizes: bool


def build(
    tokenizer: Tokenizer,
    *,
    config: Mapping[str, Any],
    special_tokens: Mapping[str, Any],
    added_tokens: Mapping[str, Any],
    model_type: str = "",
    is_tiktoken: bool = False,
) -> TokenizerFile:
    """Amend ``tokenizer`` by the contents of the configuration files of these names.

    ``model_type`` is that of the model's ``config.json``, where there is one.

    Raises ``ValueError`` when they contradict each other.
    """
    defaults = {"pad_token": tokenizer.padding["pad_token"]} if tokenizer.padding else {}
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = bool(config.get("split_special_tokens"))
    if not is_tiktoken and _rebuild(tokenizer, config, model_type):
        defaults |= _LLAMA_NAMES
    override: Mapping[str, Any] = {} if "added_tokens_decoder" in config else special_tokens
    named = _named({**defaults, **config, **override}) | _named_extra(config) | _named_extra(override)
    # The library heeds the second name only where the first says nothing, and that only in the configuration.
    extra = _contents(config.get("extra_special_tokens") or config.get("additional_special_tokens"))
    extra += _contents(override.get("extra_special_tokens"))
    declared = _declared(config, added_tokens, special={*map(named.get, SPECIAL_TOKEN_NAMES), *extra})
    _add_tokens(tokenizer, declared, named, extra)
    for name, content in named.items():
        if tokenizer.token_to_id(content) is None:
            raise ValueError(f"`{name}` is {content!r}, which is not in the vocabulary")
    if is_tiktoken:
        _set_post_processor(tokenizer, named, config)
    before, after = _surroundings(tokenizer)
    return TokenizerFile(
        reference=tokenizer,
        added=tuple(_added(tokenizer)),
        special_tokens=named,
        before=before,
        after=after,
        normalizes=not _is_identity(_declaration(tokenizer.normalizer)),
    )


def _named(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the special tokens by the names under which a chat template gets them, the usual ones first."""
    others = (name for name in config if name.endswith("_token") and name not in SPECIAL_TOKEN_NAMES)
    contents = {name: _content(config.get(name)) for name in (*SPECIAL_TOKEN_NAMES, *others)}
    return {name: content for name, content in contents.items() if content}


def _named_extra(config: Mapping[str, Any]) -> dict[str, str]:
    """Return further special tokens that a chat template gets by name."""
    extra = config.get("extra_special_tokens")
    contents = {name: _content(value) for name, value in extra.items()} if isinstance(extra, dict) else {}
    return {name: content for name, content in contents.items() if content}


def _rebuild(tokenizer: Tokenizer, config: Mapping[str, Any], model_type: str) -> bool:
    """Build the parts of a tokenizer that its class does not take from the file; whether there are any."""
    if str(config.get("tokenizer_class")).removesuffix("Fast") != "LlamaTokenizer" or model_type in _KEEP_THE_FILE:
        return False
    parts = json.dumps([_declaration(tokenizer.pre_tokenizer), _declaration(tokenizer.decoder)])
    if not isinstance(tokenizer.model, models.BPE) or "ByteLevel" in parts:
        return False
    scheme = "always" if config.get("legacy") else "first"
    if config.get("add_prefix_space") is False:
        scheme = "never"
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
    return True


def _declared(
    config: Mapping[str, Any], added_tokens: Mapping[str, Any], *, special: set[str | None]
) -> dict[int, TokenizersAddedToken]:
    """Return the added tokens that the configuration declares, by id."""
    decoder = config.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        return {int(number): _as_added(value) for number, value in decoder.items()}
    return {
        int(number): TokenizersAddedToken(content, normalized=content not in special, special=content in special)
        for content, number in added_tokens.items()
    }


def _add_tokens(
    tokenizer: Tokenizer,
    declared: Mapping[int, TokenizersAddedToken],
    named: Mapping[str, str],
    extra: Sequence[str],
) -> None:
    """Add what the vocabulary file does not have, or has with other properties."""
    present = tokenizer.get_added_tokens_decoder()
    for number, token in sorted(declared.items()):
        if repr(present.get(number)) == repr(token):
            continue
        known = tokenizer.token_to_id(token.content)
        if known is not None and known != number:
            raise ValueError(f"`added_tokens_decoder` gives {token.content!r} the id {number}, the vocabulary {known}")
        token.special = token.special or token.content in named.values()
        tokenizer.add_tokens([token])
        if tokenizer.token_to_id(token.content) != number:
            raise ValueError(f"`added_tokens_decoder` gives {token.content!r} the id {number}, which is not free")
    contents = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    in_vocabulary = [content for content in named.values() if tokenizer.token_to_id(content) is not None]
    missing = [content for content in dict.fromkeys((*in_vocabulary, *extra)) if content not in contents]
    tokenizer.add_special_tokens([TokenizersAddedToken(content, special=True, normalized=False) for content in missing])


def _set_post_processor(tokenizer: Tokenizer, named: Mapping[str, str], config: Mapping[str, Any]) -> None:
    bos = named.get("bos_token") if config.get("add_bos_token") else None
    eos = named.get("eos_token") if config.get("add_eos_token") else None
    template = [f"{bos}:0"] if bos else []
    template += ["$A:0"]
    template += [f"{eos}:0"] if eos else []
    specials = [(token, tokenizer.token_to_id(token)) for token in (bos, eos) if token]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=specials)


def _surroundings(tokenizer: Tokenizer) -> tuple[Ids, Ids]:
    """Return the ids that the post-processor puts before and after a text."""
    for text in ("a", "b a"):
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        whole = tokenizer.encode(text, add_special_tokens=True).ids
        for start in range(len(whole) - len(plain) + 1):
            if plain and whole[start : start + len(plain)] == plain:
                before, after = whole[:start], whole[start + len(plain) :]
                return np.array(before, dtype=np.uint32), np.array(after, dtype=np.uint32)
    raise ValueError("the post-processor changes the ids of the text")


def _added(tokenizer: Tokenizer) -> Iterator[AddedToken]:
    for number, token in sorted(tokenizer.get_added_tokens_decoder().items()):
        flags = (token.special, token.lstrip, token.rstrip, token.single_word, token.normalized)
        yield AddedToken(number, token.content, *flags)


def _declaration(part: Any) -> Any:  # noqa: ANN401 - a part of a tokenizer, and JSON
    """Return how a ``tokenizer.json`` declares a part; the whole of one is millions of lines."""
    return None if part is None else json.loads(part.__getstate__())


def _is_identity(normalizer: dict[str, Any] | None) -> bool:
    if normalizer is None:
        return True
    return normalizer.get("type") == "Sequence" and all(map(_is_identity, normalizer.get("normalizers", [])))


def _as_added(value: object) -> TokenizersAddedToken:
    if isinstance(value, str):
        return TokenizersAddedToken(value)
    if not isinstance(value, dict) or not isinstance(value.get("content"), str):
        raise ValueError("`added_tokens_decoder` has an entry without `content`")  # noqa: TRY004 - a file's fault
    known = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    return TokenizersAddedToken(**{name: value[name] for name in known if name in value})


def _content(value: object) -> str | None:
    """Return the text of a special token, which is given as text or as a mapping."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _contents(value: object) -> list[str]:
    return [content for entry in (value if isinstance(value, list) else []) if (content := _content(entry)) is not None]
