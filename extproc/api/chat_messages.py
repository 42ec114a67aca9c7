"""Prompts that are OpenAI chat messages: what identifies them, their checks, their conversion."""

from typing import Any, NamedTuple

import msgspec

from extproc.api.body import NULL, decode_field, is_given
from extproc.api.prompt_input import ChatInput, PromptInput
from extproc.api.prompt_parts import optional
from extproc.api.template_variables import template_variables
from extproc.api.tools import decode_tools
from extproc.errors import InvalidRequest


class ContentPart(msgspec.Struct, frozen=True):
    """One part of a message's content; only ``text`` parts carry ``text``."""

    type: str | None = None
    text: str | None = None


class ChatMessage(msgspec.Struct, frozen=True):
    """One message. vLLM also takes bare strings as content parts."""

    role: str
    content: str | list[ContentPart | str] | None = None


_messages = msgspec.json.Decoder(list[ChatMessage])
_any_list = msgspec.json.Decoder(list[Any])
_documents = msgspec.json.Decoder(list[dict[str, Any]] | None)


class ChatPrompt(NamedTuple):
    """All that decides what a chat template writes, as the fields of a body came.

    A family leaves out what vLLM does not read at its path, even where the client sends it.
    """

    messages: msgspec.Raw
    chat_template: str | None
    chat_template_kwargs: msgspec.Raw
    add_generation_prompt: bool
    continue_final_message: bool
    add_special_tokens: bool
    tools: msgspec.Raw = NULL
    documents: msgspec.Raw = NULL
    reasoning_effort: str | None = None
    tool_choice_none: bool = False

    def parts(self) -> tuple[bytes, ...]:
        """Return what identifies the prompt, for :meth:`RequestBody.prompt_parts`."""
        return (
            b"chat",
            bytes(self.messages),
            bytes(self.tools),
            bytes(self.documents),
            bytes(self.chat_template_kwargs),
            optional(self.chat_template),
            optional(self.reasoning_effort),
            bytes(
                (
                    self.add_generation_prompt,
                    self.continue_final_message,
                    self.add_special_tokens,
                    self.tool_choice_none,
                )
            ),
        )

    def convert(self, field: str = "messages") -> PromptInput | None:
        """Return the prompt, whose messages come from ``field``; None when the template's variables hide it.

        Raises :class:`InvalidRequest`.
        """
        if self.add_generation_prompt and self.continue_final_message:
            raise InvalidRequest(
                "Cannot set both `continue_final_message` and `add_generation_prompt` to True.",
                param="continue_final_message",
            )
        variables = template_variables(self.chat_template_kwargs, effort=self.reasoning_effort)
        if variables is None:
            return None
        documents = decode_field(_documents, self.documents, "documents") if is_given(self.documents) else None
        return ChatInput(
            messages=decode_field(_any_list, self.messages, field),
            tools=decode_tools(self.tools) if is_given(self.tools) else None,
            documents=variables.documents if documents is None else documents,
            add_generation_prompt=self.add_generation_prompt,
            continue_final_message=self.continue_final_message,
            add_special_tokens=self.add_special_tokens,
            chat_template=self.chat_template or None,
            kwargs=variables.kwargs,
            tool_choice_none=self.tool_choice_none,
        )


def check_messages(raw: msgspec.Raw) -> None:
    """Raise :class:`InvalidRequest` when messages are not of the right shape."""
    decode_field(_messages, raw, "messages")
