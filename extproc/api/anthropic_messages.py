"""``/v1/messages`` (Anthropic)."""

from typing import Any, Literal

import msgspec

from extproc.api.anthropic_conversion import Block, Message, to_openai_messages, tools_in_effect
from extproc.api.body import NULL, RequestBody, decode_field
from extproc.api.prompt_input import ChatInput, PromptInput


class Thinking(msgspec.Struct, frozen=True):
    """Whether the model is to think before it answers."""

    type: str


class OutputConfig(msgspec.Struct, frozen=True):
    """How the answer is to be."""

    effort: str | None = None


class ToolChoice(msgspec.Struct, frozen=True):
    """Which tool the model may, must or must not call."""

    type: Literal["auto", "any", "tool", "none"] = "auto"


_messages = msgspec.json.Decoder(list[Message])
_system = msgspec.json.Decoder(str | list[Block] | None)
_tools = msgspec.json.Decoder(list[dict[str, Any]] | None)
_kwargs = msgspec.json.Decoder(dict[str, Any] | None)


class MessagesRequest(RequestBody, frozen=True, kw_only=True):
    """The prompt is the system text and the turns."""

    messages: msgspec.Raw
    system: msgspec.Raw = NULL
    tools: msgspec.Raw = NULL
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    chat_template_kwargs: msgspec.Raw = NULL

    def validate(self) -> None:
        """Check the messages and the system text."""
        decode_field(_messages, self.messages, "messages")
        decode_field(_system, self.system, "system")

    def prompt_parts(self) -> tuple[bytes, ...]:
        """The system text, the turns and the tools."""
        choice = self.tool_choice.type if self.tool_choice else ""
        return (
            b"anthropic",
            bytes(self.system),
            bytes(self.messages),
            bytes(self.tools),
            bytes(self.chat_template_kwargs),
            f"{choice == 'none'} {self._effort() or ''}".encode(errors="surrogatepass"),
        )

    def prompt_input(self) -> PromptInput | None:
        """The turns as OpenAI chat messages."""
        messages = decode_field(_messages, self.messages, "messages")
        system = decode_field(_system, self.system, "system")
        kwargs = decode_field(_kwargs, self.chat_template_kwargs, "chat_template_kwargs") or {}
        effort = self._effort()
        if effort is not None:
            kwargs.setdefault("enable_thinking", effort != "none")
            kwargs["reasoning_effort"] = effort
        return ChatInput(
            messages=to_openai_messages(system, messages),
            tools=tools_in_effect(decode_field(_tools, self.tools, "tools"), messages),
            kwargs=kwargs,
            tool_choice_none=self.tool_choice is not None and self.tool_choice.type == "none",
            inline_system=True,
        )

    def _effort(self) -> str | None:
        if self.thinking is not None and self.thinking.type == "disabled":
            return "none"
        return None if self.output_config is None else self.output_config.effort


decoder = msgspec.json.Decoder(MessagesRequest)
