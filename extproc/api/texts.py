"""Prompts that are a text, texts, token ids or lists of token ids."""

import re
from typing import Any, TypeAlias

import msgspec

from extproc.api.body import decode_field
from extproc.api.prompt_input import PromptInput, TextInput, TokenInput, to_ids
from extproc.errors import InvalidRequest

Texts: TypeAlias = str | list[str | int | list[int]] | None

_NUMBERS = re.compile(rb"\[\s*(\[\s*)?[-0-9]")

_texts = msgspec.json.Decoder(Texts)
_ids = msgspec.json.Decoder(list[int])
_id_lists = msgspec.json.Decoder(list[list[int]])


def check_texts(raw: msgspec.Raw, field: str) -> None:
    """Raise :class:`InvalidRequest` when a field is none of these."""
    decode_field(_texts, raw, field)


def texts_parts(raw: msgspec.Raw, *, add_special_tokens: bool) -> tuple[bytes, ...]:
    """Return what identifies the prompts of a field, for :meth:`RequestBody.prompt_parts`."""
    return b"texts", bytes(raw), bytes((add_special_tokens,))


def decode_texts(raw: msgspec.Raw, field: str, *, add_special_tokens: bool) -> PromptInput | None:
    """Return the prompts of a field; None when it is null. Raises :class:`InvalidRequest`."""
    # Lists that begin with a number are read without making a choice for every entry.
    numbers = _NUMBERS.match(memoryview(raw))
    if numbers is not None:
        lists = decode_field(_id_lists, raw, field) if numbers[1] else [decode_field(_ids, raw, field)]
        return TokenInput(tuple(_to_ids(ids, field) for ids in lists))
    value = decode_field(_texts, raw, field)
    if value is None:
        return None
    return _from_value(value, field, add_special_tokens=add_special_tokens)


def _from_value(value: Any, field: str, *, add_special_tokens: bool) -> PromptInput | None:  # noqa: ANN401 - of type Texts
    if isinstance(value, str):
        return TextInput((value,), add_special_tokens)
    if all(isinstance(entry, str) for entry in value):
        return TextInput(tuple(value), add_special_tokens)
    if all(isinstance(entry, list) for entry in value):
        return TokenInput(tuple(_to_ids(ids, field) for ids in value))
    raise InvalidRequest("A list has texts, token ids, or lists of token ids, and only one of these.", param=field)


def _to_ids(values: list[int], field: str) -> Any:  # noqa: ANN401 - an array of ids
    try:
        return to_ids(values)
    except ValueError as error:
        raise InvalidRequest(f"Not token ids: {error}.", param=field) from error
