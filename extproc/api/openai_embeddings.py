"""``/v1/embeddings`` (OpenAI) and vLLM's ``/pooling``, which takes the same input."""

import re
from typing import Any, ClassVar, Literal

import msgspec

from extproc.api.body import NULL, RequestBody, decode_field, is_given
from extproc.api.chat_messages import ChatPrompt
from extproc.api.prompt_input import PromptInput
from extproc.api.texts import decode_texts, texts_parts

Input = str | list[str | int | list[int] | dict[str, msgspec.Raw]] | None

_OBJECTS = re.compile(rb"[ \t\r\n\[]*\{")

_input = msgspec.json.Decoder(Input)
_messages = msgspec.json.Decoder(list[dict[str, msgspec.Raw]] | None)
_objects = msgspec.json.Decoder(list[Any])


class EmbeddingRequest(RequestBody, frozen=True, kw_only=True):
    """``input`` is a text, texts, token ids or lists of token ids; vLLM also takes chat ``messages`` in its place.

    At these paths vLLM reads neither tools nor documents nor how much the model is to think.
    """

    has_answer: ClassVar[bool] = False
    default_truncation_side: ClassVar[Literal["left", "right"]] = "right"

    input: msgspec.Raw = NULL
    messages: msgspec.Raw = NULL
    chat_template: str | None = None
    chat_template_kwargs: msgspec.Raw = NULL
    add_generation_prompt: bool = False
    continue_final_message: bool = False
    add_special_tokens: bool | None = None
    padding: str | None = None
    truncate_prompt_tokens: int | None = None
    truncation_side: Literal["left", "right"] | None = None

    def validate(self) -> None:
        """Check the input and the messages."""
        if is_given(self.input):
            decode_field(_input, self.input, "input")
        if is_given(self.messages):
            decode_field(_messages, self.messages, "messages")

    def prompt_parts(self) -> tuple[bytes, ...] | None:
        """The input or the messages."""
        if self._is_padded():
            return None
        if is_given(self.messages):
            return self._chat(self.messages).parts()
        if not is_given(self.input):
            return None
        if self._has_objects():
            return self._chat(self.input).parts()
        return texts_parts(self.input, add_special_tokens=self.add_special_tokens is not False)

    def prompt_input(self) -> PromptInput | None:
        """The texts or ids, or the messages; None for several chats at once."""
        if self._is_padded():
            return None
        if is_given(self.messages):
            return self._chat(self.messages).convert()
        if not is_given(self.input):
            return None
        if self._has_objects():
            return self._chat(self.input).convert("input") if self._has_messages() else None
        return decode_texts(self.input, "input", add_special_tokens=self.add_special_tokens is not False)

    def _chat(self, messages: msgspec.Raw) -> ChatPrompt:
        return ChatPrompt(
            messages,
            self.chat_template,
            self.chat_template_kwargs,
            self.add_generation_prompt,
            self.continue_final_message,
            bool(self.add_special_tokens),
        )

    def _is_padded(self) -> bool:
        """Whether the prompt is filled up to a length that only the engine knows."""
        return self.padding == "max_length"

    def _has_objects(self) -> bool:
        """Whether the input is a list that begins with an object."""
        return _OBJECTS.match(memoryview(self.input)) is not None

    def _has_messages(self) -> bool:
        entries = decode_field(_objects, self.input, "input")
        return all(isinstance(entry, dict) and isinstance(entry.get("role"), str) for entry in entries)


decoder = msgspec.json.Decoder(EmbeddingRequest)
