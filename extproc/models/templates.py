"""The chat templates of one model: which one a request gets, and which added tokens they write."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal

from extproc.errors import InvalidRequest, ModelUnusable
from extproc.models.files import DEFAULT_TEMPLATE
from extproc.prompt.chat_template import ChatTemplate
from extproc.prompt.conversation import to_conversation
from extproc.tokens.boundaries import AddedToken

TOOL_TEMPLATE = "tool_use"
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
ContentFormat = Literal["auto", "string", "openai"]

_TOOL = {
    "type": "function",
    "function": {"name": "look_up", "description": "Look up.", "parameters": {"type": "object"}},
}
_CALL = {"id": "call00000", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
_TURNS: list[dict[str, Any]] = [
    {"role": "user", "content": "Hi."},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "?"},
]
_CALLING: list[dict[str, Any]] = [
    {"role": "user", "content": "Hi."},
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "tool_call_id": "call00000", "content": "42"},
]
_SAMPLES: tuple[tuple[list[dict[str, Any]], list[dict[str, Any]] | None], ...] = (
    (_TURNS, None),
    ([{"role": "system", "content": "Be brief."}, *_TURNS], None),
    ([{"role": "system", "content": "Be brief."}, *_TURNS], [_TOOL]),
    (_CALLING, [_TOOL]),
)


class ModelTemplates:
    """The templates by name, compiled. Raises :class:`ModelUnusable` when one is not a template."""

    def __init__(
        self, sources: Mapping[str, str], *, special_tokens: Mapping[str, str], content_format: ContentFormat
    ) -> None:
        self._special_tokens = special_tokens
        self._given_format = content_format
        self._templates: dict[str, ChatTemplate] = {
            name: self._compiled(name, source) for name, source in sources.items()
        }

    def __bool__(self) -> bool:
        return bool(self._templates)

    def select(self, *, tools: bool) -> ChatTemplate:
        """Return the template for a request with or without tools; raises :class:`InvalidRequest` without one."""
        found = self._templates.get(TOOL_TEMPLATE) if tools else None
        found = found or self._templates.get(DEFAULT_TEMPLATE)
        if found is None:
            raise InvalidRequest("The model has no chat template, so it takes no messages.", param="messages")
        return found

    def of_request(self, source: str) -> ChatTemplate:
        """Compile a template that a request brought along; raises :class:`InvalidRequest` when it is none."""
        try:
            return self._templates.get(source) or ChatTemplate(source, special_tokens=self._special_tokens)
        except ValueError as error:
            raise InvalidRequest(f"Not a chat template: {error}", param="chat_template") from error

    def format_of(self, template: ChatTemplate) -> Literal["string", "openai"]:
        """Return how the template takes the content of messages."""
        return template.content_format if self._given_format == "auto" else self._given_format

    @property
    def timeless(self) -> bool:
        """Whether what the templates write depends on what they are given alone."""
        moment = datetime.fromtimestamp(0, tz=UTC)
        return all(template.volatile(moment) == "" for template in self._templates.values())

    def volatile(self, now: datetime) -> str | None:
        """Return what of the present moment the templates write; None when that cannot be told."""
        parts = [template.volatile(now) for template in self._templates.values()]
        return None if None in parts else "\0".join(part or "" for part in parts)

    @property
    def wants_system_first(self) -> bool:
        """Whether a template refuses a system message that is not the first."""
        messages = [{"role": role, "content": "t"} for role in ("system", "user", "system", "user")]
        return any(_rendered(template, messages, None) is None for template in self._templates.values())

    @property
    def can_stop_thinking(self) -> bool:
        """Whether a request can turn thinking off: the template takes that, and writes something else then.

        vLLM decides so for Anthropic's `thinking: disabled`.
        """
        template = self._templates.get(DEFAULT_TEMPLATE)
        if template is None:
            return True
        messages = [{"role": "user", "content": "Hi"}]
        none, *some = (
            _rendered(template, messages, None, {"reasoning_effort": effort, "enable_thinking": effort != "none"})
            for effort in ("none", *_EFFORTS)
        )
        return none is not None and none not in some

    def written_tokens(self, added: Sequence[AddedToken]) -> list[AddedToken]:
        """Return those of ``added`` that appear in sample conversations: the ones that separate turns."""
        texts = [text for template in self._templates.values() for text in self._samples(template)]
        return [token for token in added if any(token.content in text for text in texts)]

    def _samples(self, template: ChatTemplate) -> list[str]:
        texts = []
        for messages, tools in _SAMPLES:
            conversation = to_conversation(messages, content_format=self.format_of(template))
            text = _rendered(template, conversation.messages, tools)
            if text is not None:
                texts.append(text)
        return texts

    def _compiled(self, name: str, source: str) -> ChatTemplate:
        try:
            return ChatTemplate(source, special_tokens=self._special_tokens)
        except ValueError as error:
            raise ModelUnusable(f"chat template `{name}`: {error}") from error


def _rendered(
    template: ChatTemplate,
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None,
    kwargs: Mapping[str, Any] = MappingProxyType({}),
) -> str | None:
    """Render a conversation, or return None when the template refuses it."""
    try:
        return template.render(
            messages,
            tools=tools,
            documents=None,
            add_generation_prompt=True,
            continue_final_message=False,
            kwargs=kwargs,
        )
    except InvalidRequest:
        return None
