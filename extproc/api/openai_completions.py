"""``/v1/completions`` (OpenAI)."""

from typing import Literal

import msgspec

from extproc.api.body import NULL, RequestBody, is_given
from extproc.api.prompt_input import PromptInput
from extproc.api.texts import check_texts, decode_texts, texts_parts


class CompletionRequest(RequestBody, frozen=True, kw_only=True):
    """``prompt`` is a text, texts, token ids or lists of token ids; vLLM takes ``prompt_embeds`` in its place."""

    prompt: msgspec.Raw = NULL
    prompt_embeds: msgspec.Raw = NULL
    add_special_tokens: bool = True
    truncate_prompt_tokens: int | None = None
    truncation_side: Literal["left", "right"] | None = None

    def validate(self) -> None:
        """Check the prompt."""
        check_texts(self.prompt, "prompt")

    def prompt_parts(self) -> tuple[bytes, ...] | None:
        """The prompt, as it came."""
        return texts_parts(self.prompt, add_special_tokens=self.add_special_tokens) if self._is_known() else None

    def prompt_input(self) -> PromptInput | None:
        """The texts or ids."""
        if not self._is_known():
            return None
        return decode_texts(self.prompt, "prompt", add_special_tokens=self.add_special_tokens)

    def _is_known(self) -> bool:
        return is_given(self.prompt) and not is_given(self.prompt_embeds)


decoder = msgspec.json.Decoder(CompletionRequest)
