"""What all request bodies share, and how a body that cannot be read is refused."""

import re
from typing import ClassVar, Literal, TypeVar

import msgspec

from extproc.api.prompt_input import PromptInput
from extproc.errors import InvalidRequest

NULL = msgspec.Raw(b"null")
"""A field that is missing, or null: the two mean the same."""

MAX_ANSWER_TOKENS = 1 << 24
_MAX_DIGITS = 12

B = TypeVar("B", bound="RequestBody")
T = TypeVar("T")

# Where inside a field it is wrong comes first: `Object missing required field `role` - at `$.messages[0]``.
_PLACES = (re.compile(r"at `\$\.(\w+)"), re.compile(r"missing required field `(\w+)"))


class RequestBody(msgspec.Struct, frozen=True, kw_only=True):
    """The routing-relevant part of a body. ``model`` is required on every recognised path.

    What makes up the prompt is kept as it came (``msgspec.Raw``) until it is asked for: a body whose prompt is in the
    cache, or that is routed without its prompt, is never decoded any further.
    """

    default_truncation_side: ClassVar[Literal["left", "right"]] = "left"
    """From which side vLLM lets the tokenizer cut where the body names none."""

    growing_part: ClassVar[int] = 1
    """Which of the :meth:`prompt_parts` a conversation adds to, turn by turn."""

    has_answer: ClassVar[bool] = True
    """Whether the engine generates tokens."""

    model: str
    stream: bool | None = None
    cache_salt: str | None = None
    max_tokens: msgspec.Raw = NULL
    max_completion_tokens: msgspec.Raw = NULL
    max_output_tokens: msgspec.Raw = NULL
    vllm_xargs: msgspec.Raw = NULL

    # A family that vLLM lets shorten its prompts, or bring a template, has fields of these names instead.
    @property
    def truncate_prompt_tokens(self) -> int | None:
        """To how many tokens vLLM cuts each prompt: -1 to as many as the model takes, None not at all."""
        return None

    @property
    def truncation_side(self) -> Literal["left", "right"] | None:
        """From which side it cuts; None for :attr:`default_truncation_side`, with the tokens around a text kept."""
        return None

    @property
    def chat_template(self) -> str | None:
        """A chat template that the request brings along."""
        return None

    def answer_tokens(self, assumed: int) -> int:
        """Return the most tokens that the answer may have, by whatever name the API gives it; else ``assumed``."""
        if not self.has_answer:
            return 0
        for limit in (self.max_completion_tokens, self.max_tokens, self.max_output_tokens):
            if limit != NULL:
                text = bytes(limit)
                return min(int(text), MAX_ANSWER_TOKENS) if text.isdigit() and len(text) < _MAX_DIGITS else assumed
        return assumed

    def validate(self) -> None:
        """Raise :class:`InvalidRequest` when what makes up the prompt is not of the right shape."""

    def prompt_parts(self) -> tuple[bytes, ...] | None:
        """Return pieces that together determine the prompt; None when the body has none that can be known.

        Bodies with equal pieces, in number and content, have equal prompts.
        """
        return None

    def prompt_input(self) -> PromptInput | None:
        """Return the prompt; raises :class:`InvalidRequest`. None as for :meth:`prompt_parts`."""
        return None


def decode(decoder: msgspec.json.Decoder[B], body: bytes) -> B:
    """Read a body, or refuse it (400) with the name of the top-level field at fault.

    The message quotes the decoder, which speaks of types and positions and never of values, so nothing of the prompt
    appears in it.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        matches = (place.search(str(error)) for place in _PLACES)
        raise InvalidRequest(str(error), param=next((match[1] for match in matches if match), None)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}") from error
    except RecursionError as error:
        raise InvalidRequest("The request body is nested too deeply.") from error


def decode_field(decoder: msgspec.json.Decoder[T], raw: msgspec.Raw, field: str) -> T:
    """Read a field that was kept as it came, or refuse it (400) under its name."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        message = str(error)
        message = message.replace("`$", f"`$.{field}") if "`$" in message else f"{message} - at `$.{field}`"
        raise InvalidRequest(message, param=field) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}", param=field) from error
    except RecursionError as error:
        raise InvalidRequest("The request body is nested too deeply.", param=field) from error


def is_given(raw: msgspec.Raw) -> bool:
    """Whether a field that was kept as it came is there and not null."""
    return raw != NULL
