"""``/v1/embeddings`` (OpenAI) and vLLM's ``/pooling``, which takes the same input."""

import msgspec

from extproc.api.body import NULL, decode_field, is_given
from extproc.api.chat_messages import ChatFields
from extproc.api.prompt_input import PromptInput
from extproc.api.texts import decode_texts

Input = str | list[str | int | list[int] | dict[str, msgspec.Raw]] | None

_input = msgspec.json.Decoder(Input)
_messages = msgspec.json.Decoder(list[dict[str, msgspec.Raw]] | None)


class EmbeddingRequest(ChatFields, frozen=True, kw_only=True):
    """``input`` is a text, texts, token ids or lists of token ids; vLLM also takes chat ``messages`` in its place."""

    input: msgspec.Raw = NULL
    add_generation_prompt: bool = False
    add_special_tokens: bool | None = None

    def validate(self) -> None:
        """Check the input and the messages."""
        if is_given(self.input):
            decode_field(_input, self.input, "input")
        if is_given(self.messages):
            decode_field(_messages, self.messages, "messages")

    def prompt_parts(self) -> tuple[bytes, ...] | None:
        """The input or the messages."""
        if is_given(self.messages):
            return self.chat_parts(
                add_generation_prompt=self.add_generation_prompt, add_special_tokens=bool(self.add_special_tokens)
            )
        if not is_given(self.input):
            return None
        return b"texts", bytes(self.input), bytes((self._special_for_texts(),))

    def prompt_input(self) -> PromptInput | None:
        """The texts or ids, or the messages."""
        if is_given(self.messages):
            return self.chat_input(
                add_generation_prompt=self.add_generation_prompt, add_special_tokens=bool(self.add_special_tokens)
            )
        if not is_given(self.input) or (b"{" in bytes(self.input) and self._has_media()):
            return None
        return decode_texts(self.input, "input", add_special_tokens=self._special_for_texts())

    def _has_media(self) -> bool:
        assert is_given(self.input)
        value = decode_field(_input, self.input, "input")
        return isinstance(value, list) and any(isinstance(entry, dict) for entry in value)

    def _special_for_texts(self) -> bool:
        return self.add_special_tokens is not False


decoder = msgspec.json.Decoder(EmbeddingRequest)
