"""What the bodies of all API families come to: a list of messages, texts, or token ids."""

from array import array
from typing import Any, TypeAlias

import msgspec
import numpy as np

from extproc.index.block_hash import Ids


class ChatInput(msgspec.Struct, frozen=True, kw_only=True):
    """A list of messages, as OpenAI's chat completions have it, and what else a chat template is given.

    ``messages`` are plain JSON values, of which nothing is checked yet. ``chat_template`` is one that the request
    brings along. ``kwargs`` are variables for the template, merged from all that the request says.
    ``inline_system`` says that a message with the role `system` may stand anywhere, and is to be moved to the
    beginning for a template that does not take it elsewhere. ``low_effort_kwargs`` replace ``kwargs``, which turn
    thinking off, for a template with which that cannot be done.
    """

    messages: list[Any]
    tools: list[dict[str, Any]] | None = None
    documents: list[Any] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    chat_template: str | None = None
    kwargs: dict[str, Any] = {}
    tool_choice_none: bool = False
    inline_system: bool = False
    low_effort_kwargs: dict[str, Any] | None = None


class TextInput(msgspec.Struct, frozen=True):
    """Texts, each a prompt of its own."""

    texts: tuple[str, ...]
    add_special_tokens: bool = True


class TokenInput(msgspec.Struct, frozen=True):
    """Token ids, each list a prompt of its own."""

    prompts: tuple[Ids, ...]


PromptInput: TypeAlias = ChatInput | TextInput | TokenInput


def to_ids(values: list[int]) -> Ids:
    """Return whole numbers from 0 to 2**32 - 1 as an array; raises ``ValueError`` on others."""
    try:
        # By way of the standard library's array, which takes a third of the time.
        return np.frombuffer(array("I", values), dtype=np.uint32)
    except OverflowError as error:
        raise ValueError("a token id is a whole number from 0 to 4,294,967,295") from error
