"""Small readings of fields that were kept as they came, for telling prompts apart without decoding them."""

import msgspec

from extproc.api.body import is_given


def optional(text: str | None) -> bytes:
    """Return a text that may be missing as a part of a prompt; one that is missing differs from an empty one."""
    return b"" if text is None else b"=" + text.encode()


def forbids_tools(tool_choice: msgspec.Raw) -> bool:
    """Whether ``tool_choice`` is "none"."""
    return bytes(tool_choice) == b'"none"'


def has_forwarded_ids(kv_transfer_params: msgspec.Raw) -> bool:
    """Whether the ids of a chat come along, from an engine that has read it: they stand in for the messages."""
    return is_given(kv_transfer_params) and b'"prompt_token_ids"' in bytes(kv_transfer_params)
