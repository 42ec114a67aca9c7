"""``/v1/completions`` (OpenAI)."""

import msgspec

from extproc.api.body import NULL, RequestBody, is_given
from extproc.api.prompt_input import PromptInput
from extproc.api.texts import check_texts, decode_texts


class CompletionRequest(RequestBody, frozen=True, kw_only=True):
    """``prompt`` is a text, texts, token ids or lists of token ids; vLLM takes ``prompt_embeds`` in its place."""

    prompt: msgspec.Raw = NULL
    prompt_embeds: msgspec.Raw = NULL
    add_special_tokens: bool = True

    def validate(self) -> None:
        """Check the prompt."""
        check_texts(self.prompt, "prompt")

    def prompt_parts(self) -> tuple[bytes, ...] | None:
        """The prompt, as it came."""
        if not is_given(self.prompt) or is_given(self.prompt_embeds):
            return None
        return b"texts", bytes(self.prompt), bytes((self.add_special_tokens,))

    def prompt_input(self) -> PromptInput | None:
        """The texts or ids."""
        if not is_given(self.prompt) or is_given(self.prompt_embeds):
            return None
        return decode_texts(self.prompt, "prompt", add_special_tokens=self.add_special_tokens)


decoder = msgspec.json.Decoder(CompletionRequest)
