"""A model's chat template: from messages to the text of a prompt, byte for byte as the engine makes it.

The engine lets the `transformers` library render, and so does what follows, without the library's deep copies of its
input: they turn rich objects into JSON values, and what comes from a request is JSON already.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from jinja2.exceptions import TemplateSyntaxError

from extproc.errors import InvalidRequest
from extproc.prompt.content_format import ContentFormat, detect_content_format
from extproc.prompt.continuation import cut_at_mark, mark_end
from extproc.prompt.sandbox import TemplateEnvironment, undeclared_variables
from extproc.prompt.system_messages import without_developers
from extproc.prompt.template_context import Variables
from extproc.prompt.template_errors import refusal
from extproc.prompt.volatility import clock_formats

# Arguments of the library's own: it does not hand them on to a template.
_LIBRARY_ARGUMENTS = frozenset(
    (
        "add_generation_prompt", "chat_template", "continue_final_message", "conversation", "documents", "max_length",
        "padding", "return_assistant_tokens_mask", "return_dict", "return_tensors", "sanitize_control_tokens",
        "tokenize", "tokenizer_kwargs", "tools", "truncation",
    )
)  # fmt: skip
_REFUSED = frozenset(("chat_template", "conversation", "tokenize"))
_GIVEN = frozenset(("messages", "conversations"))
# Names of a message's reasoning; templates read the first.
_REASONING = ("reasoning_content", "thinking", "reasoning")


class ChatTemplate:
    """A compiled template. It may be used by several threads at once.

    ``content_format`` is the form in which it wants the content of messages. ``variables`` are the names it reads
    without setting them. ``supports_developer`` tells whether it knows the role ``developer``; where it does not, such
    messages become system messages.
    """

    def __init__(
        self, source: str, *, special_tokens: Mapping[str, Any], clock: Callable[[], datetime] = datetime.now
    ) -> None:
        """Compile ``source``; raises ``ValueError`` with the reason and the line when that is not possible.

        ``special_tokens`` are the tokenizer's (``bos_token``, ...), which the template sees by these names. ``clock``
        gives the local time.
        """
        environment = TemplateEnvironment(clock=clock)
        try:
            tree = environment.parse(source)
            self._template = environment.from_string(source)
            self.variables = undeclared_variables(source)
        except TemplateSyntaxError as error:
            raise ValueError(f"The chat template does not compile: {error.message} (line {error.lineno})") from error
        except (SyntaxError, RecursionError) as error:
            raise ValueError(f"The chat template does not compile: {error}") from error
        self.content_format: ContentFormat = detect_content_format(tree)
        self.supports_developer: bool = '"developer"' in source or "'developer'" in source
        self._can_continue = "content" in source
        self._accepted = self.variables - _LIBRARY_ARGUMENTS
        self._clock_formats = clock_formats(tree)
        # Copied once: jinja merges its globals with the variables of every rendering, which takes longer than the loop
        # over the messages.
        self._globals = {**self._template.globals, **special_tokens}

    def render(
        self,
        conversation: list[dict[str, Any]],
        *,
        tools: list[Any] | None,
        documents: list[Any] | None,
        add_generation_prompt: bool,
        continue_final_message: bool,
        kwargs: Mapping[str, Any],
    ) -> str:
        """Return the text of the prompt; see :meth:`pieces`."""
        return "".join(
            self.pieces(
                conversation,
                tools=tools,
                documents=documents,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                kwargs=kwargs,
            )
        )

    def pieces(
        self,
        conversation: list[dict[str, Any]],
        *,
        tools: list[Any] | None,
        documents: list[Any] | None,
        add_generation_prompt: bool,
        continue_final_message: bool,
        kwargs: Mapping[str, Any],
    ) -> list[str]:
        """Return the text of the prompt in the pieces that the template writes.

        ``conversation`` is what ``to_conversation`` returns: every message has a role and a content, and it is JSON
        throughout, as all other arguments are. It is not changed. ``kwargs`` are the request's
        ``chat_template_kwargs``, of which the template gets those that it reads.

        Raises ``InvalidRequest`` when the template refuses the input or fails at it, and for input that no template
        gets.
        """
        if not conversation:
            raise InvalidRequest("There is no message.", param="messages")
        variables = Variables(self._globals)
        if kwargs:
            variables |= self._filtered(kwargs)
            # The library's arguments can be given by this way too.
            tools = kwargs.get("tools") if tools is None else tools
            documents = kwargs.get("documents") if documents is None else documents
        messages = self._prepared(conversation)
        final = ""
        if continue_final_message:
            messages, final = self._marked(messages, add_generation_prompt=add_generation_prompt)
        variables["messages"] = messages
        variables["tools"] = _objects(tools, "tools")
        variables["documents"] = _objects(documents, "documents")
        variables["add_generation_prompt"] = add_generation_prompt
        try:
            pieces = list(self._template.root_render_func(self._template.new_context(variables, shared=True)))
        except Exception as error:
            # A template is a program, made for other input than it may get here.
            raise refusal(error) from error
        return [cut_at_mark("".join(pieces), final)] if continue_final_message else pieces

    def volatile(self, now: datetime) -> str | None:
        """Return what, together with the input, determines the output of a rendering at ``now`` (local time).

        It is empty for a template that does not ask for the time, and None when the output cannot be told beforehand.
        """
        if not self._clock_formats:
            return None if self._clock_formats is None else ""
        return "\0".join([now.strftime(form) for form in self._clock_formats])

    def _filtered(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        refused = kwargs.keys() & (_REFUSED | (_GIVEN & self.variables))
        if refused:
            names = ", ".join(sorted(refused))
            raise InvalidRequest(f"Not allowed in chat_template_kwargs: {names}.", param="chat_template_kwargs")
        return {name: value for name, value in kwargs.items() if name in self._accepted}

    def _prepared(self, conversation: list[dict[str, Any]]) -> list[dict[str, Any]]:
        # Nothing but a role and a content: that is almost every message, and there is nothing to do for it.
        if not [None for message in conversation if len(message) != 2 or message["role"] == "developer"]:  # noqa: PLR2004
            return conversation
        if not self.supports_developer:
            conversation = without_developers(conversation)
        return [_with_reasoning(message) for message in conversation]

    def _marked(
        self, messages: list[dict[str, Any]], *, add_generation_prompt: bool
    ) -> tuple[list[dict[str, Any]], str]:
        if add_generation_prompt:
            message = "continue_final_message and add_generation_prompt exclude each other."
            raise InvalidRequest(message, param="continue_final_message")
        if not self._can_continue:
            message = "The chat template does not read the content of messages."
            raise InvalidRequest(message, param="continue_final_message")
        return mark_end(messages)


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    for name in _REASONING:
        reasoning = message.get(name)
        if reasoning is not None:
            return {"thinking": reasoning, **message, "reasoning_content": reasoning}
    return message


def _objects(values: Any, param: str) -> list[Any] | None:  # noqa: ANN401
    if values is None:
        return None
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise InvalidRequest(f"`{param}` must be a list of objects.", param=param)
    return values
