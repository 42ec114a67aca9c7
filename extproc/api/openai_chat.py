"""``/v1/chat/completions`` (OpenAI), as vLLM accepts it."""

from typing import Literal

import msgspec

from extproc.api.body import NULL, RequestBody
from extproc.api.chat_messages import ChatPrompt, check_messages
from extproc.api.prompt_input import PromptInput
from extproc.api.prompt_parts import forbids_tools, has_forwarded_ids


class ChatCompletionRequest(RequestBody, frozen=True, kw_only=True):
    """The prompt is the list of messages."""

    messages: msgspec.Raw
    tools: msgspec.Raw = NULL
    tool_choice: msgspec.Raw = NULL
    documents: msgspec.Raw = NULL
    reasoning_effort: str | None = None
    chat_template: str | None = None
    chat_template_kwargs: msgspec.Raw = NULL
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    kv_transfer_params: msgspec.Raw = NULL
    truncate_prompt_tokens: int | None = None
    truncation_side: Literal["left", "right"] | None = None

    def validate(self) -> None:
        """Check the messages."""
        check_messages(self.messages)

    def prompt_parts(self) -> tuple[bytes, ...] | None:
        """The messages and all that a template is given."""
        return None if has_forwarded_ids(self.kv_transfer_params) else self._prompt().parts()

    def prompt_input(self) -> PromptInput | None:
        """The messages and all that a template is given."""
        return None if has_forwarded_ids(self.kv_transfer_params) else self._prompt().convert()

    def _prompt(self) -> ChatPrompt:
        return ChatPrompt(
            self.messages,
            self.chat_template,
            self.chat_template_kwargs,
            self.add_generation_prompt,
            self.continue_final_message,
            self.add_special_tokens,
            self.tools,
            self.documents,
            self.reasoning_effort,
            forbids_tools(self.tool_choice),
        )


decoder = msgspec.json.Decoder(ChatCompletionRequest)
