"""vLLM's ``/tokenize``: a text or chat messages."""

from typing import Any

import msgspec

from extproc.api.body import decode_field, is_given
from extproc.api.chat_messages import ChatFields
from extproc.api.prompt_input import PromptInput, TextInput

_messages = msgspec.json.Decoder(list[dict[str, Any]] | None)


class TokenizeRequest(ChatFields, frozen=True, kw_only=True):
    """Either ``prompt`` or ``messages``."""

    prompt: str | None = None
    add_generation_prompt: bool = True
    add_special_tokens: bool | None = None

    def validate(self) -> None:
        """Check the messages."""
        if is_given(self.messages):
            decode_field(_messages, self.messages, "messages")

    def prompt_parts(self) -> tuple[bytes, ...] | None:
        """The text or the messages."""
        if is_given(self.messages):
            return self.chat_parts(
                add_generation_prompt=self.add_generation_prompt, add_special_tokens=bool(self.add_special_tokens)
            )
        if self.prompt is None:
            return None
        return b"text", self.prompt.encode(errors="surrogatepass"), bytes((self.add_special_tokens is not False,))

    def prompt_input(self) -> PromptInput | None:
        """The text or the messages."""
        if is_given(self.messages):
            return self.chat_input(
                add_generation_prompt=self.add_generation_prompt, add_special_tokens=bool(self.add_special_tokens)
            )
        return None if self.prompt is None else TextInput((self.prompt,), self.add_special_tokens is not False)


decoder = msgspec.json.Decoder(TokenizeRequest)
