"""``/v1/responses`` (OpenAI)."""

from typing import Any, ClassVar

import msgspec

from extproc.api.body import NULL, RequestBody, decode_field, is_given
from extproc.api.prompt_input import ChatInput, PromptInput
from extproc.api.prompt_parts import forbids_tools, has_forwarded_ids, optional
from extproc.api.responses_conversion import continues_last_item, function_tools, to_messages
from extproc.api.template_variables import template_variables

_input = msgspec.json.Decoder(str | list[dict[str, msgspec.Raw]])
_items = msgspec.json.Decoder(str | list[dict[str, Any]])
_tools = msgspec.json.Decoder(list[dict[str, Any]] | None)


class Reasoning(msgspec.Struct, frozen=True):
    """How much the model is to think."""

    effort: str | None = None


class ResponsesRequest(RequestBody, frozen=True, kw_only=True):
    """``input`` is a text or a list of items (messages, tool calls and their results)."""

    growing_part: ClassVar[int] = 2

    input: msgspec.Raw
    instructions: str | None = None
    tools: msgspec.Raw = NULL
    tool_choice: msgspec.Raw = NULL
    reasoning: Reasoning | None = None
    previous_response_id: str | None = None
    prompt: msgspec.Raw = NULL
    chat_template_kwargs: msgspec.Raw = NULL
    kv_transfer_params: msgspec.Raw = NULL

    def validate(self) -> None:
        """Check the input."""
        decode_field(_input, self.input, "input")

    def prompt_parts(self) -> tuple[bytes, ...] | None:
        """The instructions, the items and the tools; what an earlier response said is known to the engine alone."""
        if not self._is_known():
            return None
        return (
            b"responses",
            (self.instructions or "").encode(),
            bytes(self.input),
            bytes(self.tools),
            bytes(self.chat_template_kwargs),
            optional(self._effort()),
            bytes((forbids_tools(self.tool_choice),)),
        )

    def prompt_input(self) -> PromptInput | None:
        """The items as chat messages; None when one of them is of a kind that is not known here."""
        variables = template_variables(self.chat_template_kwargs, effort=self._effort()) if self._is_known() else None
        if variables is None:
            return None
        items = decode_field(_items, self.input, "input")
        messages = to_messages(self.instructions, items)
        if messages is None:
            return None
        continues = continues_last_item(items)
        return ChatInput(
            messages=messages,
            tools=function_tools(decode_field(_tools, self.tools, "tools")),
            documents=variables.documents,
            add_generation_prompt=not continues,
            continue_final_message=continues,
            # Unlike for other chats, vLLM lets the tokenizer add its special tokens to what the template wrote.
            add_special_tokens=True,
            kwargs=variables.kwargs,
            tool_choice_none=forbids_tools(self.tool_choice),
        )

    def _is_known(self) -> bool:
        return (
            self.previous_response_id is None
            and not is_given(self.prompt)
            and not has_forwarded_ids(self.kv_transfer_params)
        )

    def _effort(self) -> str | None:
        return None if self.reasoning is None else self.reasoning.effort


decoder = msgspec.json.Decoder(ResponsesRequest)
