"""A tokenizer as the engine builds it from its files: the vocabulary file, amended by its configuration.

The rules are those of `transformers` for a tokenizer that is not rebuilt by a class of its own: added tokens that only
the configuration names are added, ``add_bos_token`` and ``add_eos_token`` replace the post-processor, and truncation
and padding are left to the caller.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from tokenizers import AddedToken as TokenizersAddedToken
from tokenizers import Tokenizer, processors

from extproc.index.block_hash import Ids
from extproc.tokens.boundaries import AddedToken

SPECIAL_TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The names under which `transformers` gives special tokens to a chat template."""

_EXTRA = ("extra_special_tokens", "additional_special_tokens")


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

    def document(self) -> dict[str, Any]:
        """Return the content of a ``tokenizer.json`` that is all of it."""
        document: dict[str, Any] = json.loads(self.reference.to_str())
        return document


def build(
    tokenizer: Tokenizer,
    *,
    config: Mapping[str, Any],
    special_tokens: Mapping[str, Any],
    added_tokens: Mapping[str, Any],
) -> TokenizerFile:
    """Amend ``tokenizer`` by the contents of the configuration files of these names.

    Raises ``ValueError`` when they contradict each other.
    """
    tokenizer.no_truncation()
    tokenizer.no_padding()
    declared = _declared(config, added_tokens)
    named = {
        name: content
        for source in ((special_tokens, config) if not declared or "added_tokens_decoder" not in config else (config,))
        for name in SPECIAL_TOKEN_NAMES
        if (content := _content(source.get(name)))
    }
    _add_tokens(tokenizer, declared, named, config)
    for name, content in named.items():
        if tokenizer.token_to_id(content) is None:
            raise ValueError(f"`{name}` is {content!r}, which is not in the vocabulary")
    if "add_bos_token" in config or "add_eos_token" in config or tokenizer.post_processor is None:
        _set_post_processor(tokenizer, named, config)
    document = json.loads(tokenizer.to_str())
    before, after = _surroundings(tokenizer)
    return TokenizerFile(
        reference=tokenizer,
        added=tuple(_added(document["added_tokens"])),
        special_tokens=named,
        before=before,
        after=after,
        normalizes=not _is_identity(document["normalizer"]),
    )


def _declared(config: Mapping[str, Any], added_tokens: Mapping[str, Any]) -> dict[int, TokenizersAddedToken]:
    """Return the added tokens that the configuration declares, by id."""
    decoder = config.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        return {int(number): _as_added(value) for number, value in decoder.items()}
    special = {_content(config.get(name)) for name in SPECIAL_TOKEN_NAMES}
    return {
        int(number): TokenizersAddedToken(content, normalized=content not in special, special=content in special)
        for content, number in added_tokens.items()
    }


def _add_tokens(
    tokenizer: Tokenizer,
    declared: Mapping[int, TokenizersAddedToken],
    named: Mapping[str, str],
    config: Mapping[str, Any],
) -> None:
    """Add what the vocabulary file does not have, or has with other properties."""
    present = tokenizer.get_added_tokens_decoder()
    for number, token in sorted(declared.items()):
        if repr(present.get(number)) == repr(token):
            continue
        known = tokenizer.token_to_id(token.content)
        if known is not None and known != number:
            raise ValueError(f"`added_tokens_decoder` gives {token.content!r} the id {number}, the vocabulary {known}")
        tokenizer.add_tokens([token])
        if tokenizer.token_to_id(token.content) != number:
            raise ValueError(f"`added_tokens_decoder` gives {token.content!r} the id {number}, which is not free")
    contents = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    extra = [content for name in _EXTRA for content in _contents(config.get(name))]
    missing = [content for content in (*named.values(), *extra) if content not in contents]
    tokens = [TokenizersAddedToken(content, special=True, normalized=False) for content in dict.fromkeys(missing)]
    tokenizer.add_special_tokens([token for token in tokens if tokenizer.token_to_id(token.content) is not None])


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


def _added(entries: list[dict[str, Any]]) -> Iterator[AddedToken]:
    for entry in entries:
        yield AddedToken(**{name: entry[name] for name in AddedToken._fields})


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
    values = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return [content for entry in values if (content := _content(entry)) is not None]
