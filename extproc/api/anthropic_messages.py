"""``/v1/messages`` (Anthropic)."""

from typing import Any, ClassVar

import msgspec

from extproc.api.anthropic_conversion import Block, Message, to_openai_messages, tools_in_effect
from extproc.api.body import NULL, RequestBody, decode_field
from extproc.api.prompt_input import ChatInput, PromptInput
from extproc.api.prompt_parts import has_forwarded_ids, optional
from extproc.api.template_variables import template_variables


class Thinking(msgspec.Struct, frozen=True):
    """Whether the model is to think before it answers."""

    type: str


class OutputConfig(msgspec.Struct, frozen=True):
    """How the answer is to be."""

    effort: str | None = None


class ToolChoice(msgspec.Struct, frozen=True):
    """Which tool the model may, must or must not call."""

    type: str


class TextBlock(msgspec.Struct, frozen=True):
    """What is checked of a content block when its prompt is not needed."""

    type: str
    text: str | None = None


class Turn(msgspec.Struct, frozen=True):
    """What is checked of a turn when its prompt is not needed."""

    role: str
    content: str | list[TextBlock]


_turns = msgspec.json.Decoder(list[Turn])
_messages = msgspec.json.Decoder(list[Message])
_system_text = msgspec.json.Decoder(str | list[TextBlock] | None)
_system = msgspec.json.Decoder(str | list[Block] | None)
_tools = msgspec.json.Decoder(list[dict[str, Any]] | None)


class MessagesRequest(RequestBody, frozen=True, kw_only=True):
    """The prompt is the system text and the turns."""

    growing_part: ClassVar[int] = 2

    messages: msgspec.Raw
    system: msgspec.Raw = NULL
    tools: msgspec.Raw = NULL
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    chat_template_kwargs: msgspec.Raw = NULL
    kv_transfer_params: msgspec.Raw = NULL

    def validate(self) -> None:
        """Check the messages and the system text."""
        decode_field(_turns, self.messages, "messages")
        decode_field(_system_text, self.system, "system")

    def prompt_parts(self) -> tuple[bytes, ...] | None:
        """The system text, the turns and the tools."""
        if has_forwarded_ids(self.kv_transfer_params):
            return None
        return (
            b"anthropic",
            bytes(self.system),
            bytes(self.messages),
            bytes(self.tools),
            bytes(self.chat_template_kwargs),
            optional(self._effort()),
            bytes((self._forbids_tools(),)),
        )

    def prompt_input(self) -> PromptInput | None:
        """The turns as OpenAI chat messages."""
        if has_forwarded_ids(self.kv_transfer_params):
            return None
        variables = template_variables(self.chat_template_kwargs, effort=self._effort())
        if variables is None:
            return None
        messages = decode_field(_messages, self.messages, "messages")
        low = template_variables(self.chat_template_kwargs, effort="low") if self._turns_thinking_off() else None
        return ChatInput(
            messages=to_openai_messages(decode_field(_system, self.system, "system"), messages),
            tools=tools_in_effect(decode_field(_tools, self.tools, "tools"), messages),
            documents=variables.documents,
            kwargs=variables.kwargs,
            tool_choice_none=self._forbids_tools(),
            inline_system=True,
            low_effort_kwargs=None if low is None else low.kwargs,
        )

    def _effort(self) -> str | None:
        """How much the model is to think, where the request says so; turning thinking off comes first."""
        if self._turns_thinking_off():
            return "none"
        return None if self.output_config is None else self.output_config.effort

    def _turns_thinking_off(self) -> bool:
        return self.thinking is not None and self.thinking.type == "disabled"

    def _forbids_tools(self) -> bool:
        return self.tool_choice is not None and self.tool_choice.type == "none"


decoder = msgspec.json.Decoder(MessagesRequest)
