"""What the families that take OpenAI chat messages share: the fields, their checks, the conversion."""

from typing import Any

import msgspec

from extproc.api.body import NULL, RequestBody, decode_field
from extproc.api.prompt_input import ChatInput, PromptInput
from extproc.api.tools import decode_tools
from extproc.errors import InvalidRequest

UNKNOWN_KWARGS = frozenset(
    (
        "conversation", "max_length", "padding", "return_assistant_tokens_mask", "return_dict", "return_tensors",
        "sanitize_control_tokens", "tokenizer_kwargs", "tools", "truncation",
    )
)  # fmt: skip
"""Template variables that the engine takes for arguments of its tokenizer: what becomes of the prompt is not known."""


class ContentPart(msgspec.Struct, frozen=True):
    """One part of a message's content; only ``text`` parts carry ``text``."""

    type: str | None = None
    text: str | None = None


class ChatMessage(msgspec.Struct, frozen=True):
    """One message. vLLM also takes bare strings as content parts."""

    role: str
    content: str | list[ContentPart | str] | None = None


_messages = msgspec.json.Decoder(list[ChatMessage])
_any_list = msgspec.json.Decoder(list[Any])
_kwargs = msgspec.json.Decoder(dict[str, Any] | None)


class ChatFields(RequestBody, frozen=True, kw_only=True):
    """The fields of a body with chat messages, as vLLM names them."""

    messages: msgspec.Raw = NULL
    tools: msgspec.Raw = NULL
    tool_choice: msgspec.Raw = NULL
    documents: msgspec.Raw = NULL
    chat_template: str | None = None
    chat_template_kwargs: msgspec.Raw = NULL
    continue_final_message: bool = False
    reasoning_effort: str | None = None

    def chat_parts(self, *, add_generation_prompt: bool, add_special_tokens: bool) -> tuple[bytes, ...]:
        """Return the parts of a prompt that is a list of messages."""
        flags = (add_generation_prompt, self.continue_final_message, add_special_tokens, self._tool_choice_none())
        return (
            b"chat",
            bytes(self.messages),
            bytes(self.tools),
            bytes(self.documents),
            bytes(self.chat_template_kwargs),
            b"" if self.chat_template is None else b"=" + self.chat_template.encode(errors="surrogatepass"),
            bytes(flags) + (self.reasoning_effort or "").encode(errors="surrogatepass"),
        )

    def chat_input(self, *, add_generation_prompt: bool, add_special_tokens: bool) -> PromptInput | None:
        """Return a prompt that is a list of messages."""
        if add_generation_prompt and self.continue_final_message:
            raise InvalidRequest(
                "Cannot set both `continue_final_message` and `add_generation_prompt` to True.",
                param="continue_final_message",
            )
        kwargs = decode_field(_kwargs, self.chat_template_kwargs, "chat_template_kwargs") or {}
        if not UNKNOWN_KWARGS.isdisjoint(kwargs):
            return None
        documents = decode_field(_documents, self.documents, "documents")
        if "documents" in kwargs:
            given = kwargs.pop("documents")
            documents = documents if documents is not None else given
        effort = self.reasoning_effort
        if effort is not None:
            kwargs.setdefault("enable_thinking", effort != "none")
            if effort != "auto":
                kwargs["reasoning_effort"] = effort
        return ChatInput(
            messages=decode_field(_any_list, self.messages, "messages"),
            tools=decode_tools(self.tools),
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=self.continue_final_message,
            add_special_tokens=add_special_tokens,
            chat_template=self.chat_template,
            kwargs=kwargs,
            tool_choice_none=self._tool_choice_none(),
        )

    def check_messages(self) -> None:
        """Raise :class:`InvalidRequest` when the messages are not of the right shape."""
        decode_field(_messages, self.messages, "messages")

    def _tool_choice_none(self) -> bool:
        return bytes(self.tool_choice) == b'"none"'


_documents = msgspec.json.Decoder(list[dict[str, Any]] | None)
