"""vLLM's ``/tokenize``: a text or chat messages."""

from typing import ClassVar

import msgspec

from extproc.api.body import NULL, RequestBody, decode_field, is_given
from extproc.api.chat_messages import ChatPrompt
from extproc.api.prompt_input import PromptInput, TextInput

_messages = msgspec.json.Decoder(list[dict[str, msgspec.Raw]] | None)


class TokenizeRequest(RequestBody, frozen=True, kw_only=True):
    """Either ``prompt`` or ``messages``.

    At this path vLLM reads neither documents nor ``tool_choice`` nor how much the model is to think.
    """

    has_answer: ClassVar[bool] = False

    prompt: str | None = None
    messages: msgspec.Raw = NULL
    tools: msgspec.Raw = NULL
    chat_template: str | None = None
    chat_template_kwargs: msgspec.Raw = NULL
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool | None = None

    def validate(self) -> None:
        """Check the messages."""
        if is_given(self.messages):
            decode_field(_messages, self.messages, "messages")

    def prompt_parts(self) -> tuple[bytes, ...] | None:
        """The text or the messages."""
        if is_given(self.messages):
            return self._chat().parts()
        if self.prompt is None:
            return None
        return b"text", self.prompt.encode(), bytes((self.add_special_tokens is not False,))

    def prompt_input(self) -> PromptInput | None:
        """The text or the messages."""
        if is_given(self.messages):
            return self._chat().convert()
        return None if self.prompt is None else TextInput((self.prompt,), self.add_special_tokens is not False)

    def _chat(self) -> ChatPrompt:
        return ChatPrompt(
            self.messages,
            self.chat_template,
            self.chat_template_kwargs,
            self.add_generation_prompt,
            self.continue_final_message,
            bool(self.add_special_tokens),
            self.tools,
        )


decoder = msgspec.json.Decoder(TokenizeRequest)
