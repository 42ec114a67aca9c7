"""``/v1/chat/completions`` (OpenAI), as vLLM accepts it."""

import msgspec

from extproc.api.chat_messages import ChatFields
from extproc.api.prompt_input import PromptInput


class ChatCompletionRequest(ChatFields, frozen=True, kw_only=True):
    """The prompt is the list of messages."""

    messages: msgspec.Raw
    add_generation_prompt: bool = True
    add_special_tokens: bool = False

    def validate(self) -> None:
        """Check the messages."""
        self.check_messages()

    def prompt_parts(self) -> tuple[bytes, ...]:
        """The messages and all that a template is given."""
        return self.chat_parts(
            add_generation_prompt=self.add_generation_prompt, add_special_tokens=self.add_special_tokens
        )

    def prompt_input(self) -> PromptInput | None:
        """The messages and all that a template is given."""
        return self.chat_input(
            add_generation_prompt=self.add_generation_prompt, add_special_tokens=self.add_special_tokens
        )


decoder = msgspec.json.Decoder(ChatCompletionRequest)
