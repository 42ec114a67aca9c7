"""The parts of a message's content: texts, media, and references to tools."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec
import xxhash

from extproc.errors import InvalidRequest

# Some clients put a line with numbers that change in front of their system message. The engine leaves it out, since
# nothing behind it could ever be found in its cache.
BILLING_HEADER = "x-anthropic-billing-header"
PROMPT_EMBEDS_PLACEHOLDER = "<prompt_embeds>"

# Where the parts that become text have it.
_TEXT_KEYS: Mapping[str, str] = MappingProxyType(
    {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal", "thinking": "thinking"}
)
_MEDIA_KINDS: Mapping[str, str] = MappingProxyType(
    {
        # In the order in which the engine looks for them where a part does not tell its type.
        "image_url": "image",
        "image_pil": "image",
        "image_embeds": "image",
        "audio_embeds": "audio",
        "video_embeds": "video",
        "prompt_embeds": "prompt_embeds",
        "audio_url": "audio",
        "input_audio": "audio",
        "video_url": "video",
    }
)
_TOOL_REFERENCE = "tool_reference"
# Fields of parts that are not shown to the template; it gets any others.
_KNOWN_FIELDS = frozenset(
    (
        "audio_embeds", "audio_url", "closed", "data", "file", "image_embeds", "image_pil", "image_url", "input_audio",
        "name", "prompt_cache_breakpoint", "refusal", "text", "thinking", "type", "uuid", "video_embeds", "video_url",
    )
)  # fmt: skip


class PartReader:
    """Reads the contents of a conversation, and gathers the hashes of their ``media``.

    With ``wrap`` a content becomes a list of parts, without it one text.
    """

    def __init__(self, *, wrap: bool) -> None:
        self.media: list[bytes] = []
        self._wrap = wrap

    def read(self, parts: list[Any]) -> str | list[Any]:
        """Convert a content.

        The place in an ``InvalidRequest`` begins at the message (``.content[1].type``).
        """
        read = []
        for index, part in enumerate(parts):
            try:
                converted = self._part(part)
            except InvalidRequest as error:
                raise InvalidRequest(error.message, param=f".content[{index}]{error.param or ''}") from error
            if converted:
                read.append(converted)
        return read if self._wrap else "\n".join(read)

    def _part(self, part: Any) -> Any:  # noqa: ANN401
        if isinstance(part, str):
            return {"type": "text", "text": part} if self._wrap else part
        if not isinstance(part, dict):
            raise InvalidRequest("A part of a content must be a text or an object.")
        kind = _type_of(part)
        if kind in _TEXT_KEYS:
            return self._text(part, kind)
        if kind == _TOOL_REFERENCE:
            return self._tool_reference(part)
        return self._medium(part, kind)

    def _text(self, part: dict[str, Any], kind: str) -> Any:  # noqa: ANN401
        key = _TEXT_KEYS[kind]
        text = part.get(key)
        if text is None and kind in ("text", "refusal"):
            return None
        if not isinstance(text, str):
            raise InvalidRequest(f"`{key}` of a part must be a text.", param=f".{key}")
        if not self._wrap:
            return text
        if len(part) == 2:  # noqa: PLR2004 - nothing besides its type
            return {"type": "text", "text": text}
        return {"type": "text", "text": text} | _others(part)

    def _tool_reference(self, part: dict[str, Any]) -> Any:  # noqa: ANN401
        name = part.get("name")
        if name is not None and not isinstance(name, str):
            raise InvalidRequest("`name` of a part must be a text.", param=".name")
        return {"type": _TOOL_REFERENCE, "name": name} if self._wrap else name

    def _medium(self, part: dict[str, Any], key: str) -> Any:  # noqa: ANN401
        data = part.get("data" if key == "prompt_embeds" else key)
        if isinstance(data, dict) and key.endswith("_url"):
            data = data.get("url")
        uuid = part.get("uuid")
        if data is None and uuid is None:
            raise InvalidRequest(f"A part has neither `{key}` nor `uuid`.", param=f".{key}")
        self.media.append(_medium_hash(key, data, uuid))
        kind = _MEDIA_KINDS[key]
        if kind == "prompt_embeds":
            return {"type": "text", "text": PROMPT_EMBEDS_PLACEHOLDER} if self._wrap else PROMPT_EMBEDS_PLACEHOLDER
        return {"type": kind} | _others(part) if self._wrap else None


def without_billing_header(parts: list[Any]) -> list[Any]:
    """Return the parts of a system message without a client's billing line."""
    return [part for part in map(_without_billing_header, parts) if part is not None]


def _without_billing_header(part: Any) -> Any:  # noqa: ANN401
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part
    if not (isinstance(text, str) and text.startswith(BILLING_HEADER)):
        return part
    rest = text.partition("\n")[2]
    if not rest:
        return None
    return {**part, "text": rest} if isinstance(part, dict) else rest


def _type_of(part: dict[str, Any]) -> str:
    """Return the key of ``_TEXT_KEYS`` or ``_MEDIA_KINDS`` that a part goes by, or that of a reference to a tool."""
    kind = part.get("type")
    if kind == "text" and "uuid" not in part:
        return "text"
    if kind is None or part.get("uuid") is not None:
        for key in (*_MEDIA_KINDS, _TOOL_REFERENCE):
            if key in part:
                return key
    elif kind == "input_image":
        return "image_url"
    elif isinstance(kind, str) and (kind in _TEXT_KEYS or kind in _MEDIA_KINDS or kind == _TOOL_REFERENCE):
        return kind
    raise InvalidRequest("The type of a part is missing or not supported.", param=".type")


def _others(part: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key not in _KNOWN_FIELDS}


def _medium_hash(key: str, data: Any, uuid: Any) -> bytes:  # noqa: ANN401
    # A medium with an id is known by it alone: clients leave the data out once the engine has them.
    digest = xxhash.xxh3_128()
    if uuid is not None:
        digest.update(f"{key}\0uuid\0{uuid}".encode())
    else:
        digest.update(f"{key}\0data\0".encode())
        digest.update(data.encode() if isinstance(data, str) else msgspec.json.encode(data))
    return digest.digest()
