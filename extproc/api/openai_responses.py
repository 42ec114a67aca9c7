"""``/v1/responses`` (OpenAI)."""

from typing import Any

import msgspec

from extproc.api.body import NULL, RequestBody, decode_field
from extproc.api.prompt_input import ChatInput, PromptInput
from extproc.api.responses_conversion import continues_last_item, function_tools, to_messages

_input = msgspec.json.Decoder(str | list[dict[str, msgspec.Raw]])
_items = msgspec.json.Decoder(str | list[dict[str, Any]])
_tools = msgspec.json.Decoder(list[dict[str, Any]] | None)
_kwargs = msgspec.json.Decoder(dict[str, Any] | None)


class Reasoning(msgspec.Struct, frozen=True):
    """How much the model is to think."""

    effort: str | None = None


class ResponsesRequest(RequestBody, frozen=True, kw_only=True):
    """``input`` is a text or a list of items (messages, tool calls and their results)."""

    input: msgspec.Raw
    instructions: str | None = None
    tools: msgspec.Raw = NULL
    tool_choice: msgspec.Raw = NULL
    reasoning: Reasoning | None = None
    previous_response_id: str | None = None
    chat_template_kwargs: msgspec.Raw = NULL

    def validate(self) -> None:
        """Check the input."""
        decode_field(_input, self.input, "input")

    def prompt_parts(self) -> tuple[bytes, ...] | None:
        """The instructions, the items and the tools; what an earlier response said is known to the engine alone."""
        if self.previous_response_id is not None:
            return None
        effort = self.reasoning.effort if self.reasoning else None
        return (
            b"responses",
            (self.instructions or "").encode(errors="surrogatepass"),
            bytes(self.input),
            bytes(self.tools),
            bytes(self.chat_template_kwargs),
            f"{self._tool_choice_none()} {effort or ''}".encode(errors="surrogatepass"),
        )

    def prompt_input(self) -> PromptInput | None:
        """The items as chat messages; None when one of them, or a tool, is of a kind that is not known here."""
        if self.previous_response_id is not None:
            return None
        items = decode_field(_items, self.input, "input")
        messages = to_messages(self.instructions, items)
        tools = function_tools(decode_field(_tools, self.tools, "tools"))
        if messages is None or tools is None:
            return None
        kwargs = decode_field(_kwargs, self.chat_template_kwargs, "chat_template_kwargs") or {}
        effort = self.reasoning.effort if self.reasoning else None
        if effort is not None:
            kwargs.setdefault("enable_thinking", effort != "none")
            kwargs["reasoning_effort"] = effort
        continues = continues_last_item(items)
        return ChatInput(
            messages=messages,
            tools=tools or None,
            add_generation_prompt=not continues,
            continue_final_message=continues,
            kwargs=kwargs,
            tool_choice_none=self._tool_choice_none(),
        )

    def _tool_choice_none(self) -> bool:
        return bytes(self.tool_choice) == b'"none"'


decoder = msgspec.json.Decoder(ResponsesRequest)
