"""What every API has in common: the question, the answer, and the rule that says how many tokens a text has.

A token is four bytes of UTF-8, the last one possibly fewer. The rule is cheap, deterministic and gives equal prefixes
equal tokens; it is nobody's tokenizer.
"""

import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from workers.simulated.errors import bad_request

BYTES_PER_TOKEN = 4
MAX_PROMPTS = 2048
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a request for text asks. ``limit`` is the most tokens an answer may have, if the request says so."""

    model: str | None
    prompt_tokens: int
    limit: int | None = None
    choices: int = 1
    stream: bool = False
    include_usage: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What identifies any answer: ``worker`` is the one that served it."""

    id: str
    created: int
    model: str
    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A generated answer of ``tokens`` tokens in each of its choices."""

    stamp: Stamp
    prompt_tokens: int
    tokens: int
    choices: int
    finish: Literal["stop", "length"]
    include_usage: bool

    @property
    def text(self) -> str:
        """The whole text of one choice."""
        return "".join(map(token_text, range(1, self.tokens + 1)))

    def usage(self) -> dict[str, Any]:
        """OpenAI's usage object."""
        generated = self.tokens * self.choices
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + generated,
            "completion_tokens": generated,
            "prompt_tokens_details": None,
        }


class TextApi(Protocol):
    """A path that answers with generated text. Answers are bytes: JSON, or whole server-sent events."""

    id_prefix: str

    def read(self, body: bytes) -> Question:
        """Read a request. Raises ``ApiError``."""

    def whole(self, answer: Answer) -> bytes:
        """Everything at once."""

    def opening(self, answer: Answer) -> bytes:
        """The events before the first token."""

    def piece(self, answer: Answer, token: int) -> bytes:
        """The events of token number ``token``, counted from 1, of every choice."""

    def closing(self, answer: Answer) -> bytes:
        """The events after the last token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """What a request asks that needs no generated text; ``word`` makes the answer."""

    model: str | None
    prompt_tokens: int
    word: Callable[[Stamp], dict[str, Any]]
    needs_engine: bool = True


def decode(body: bytes, shape: type[T]) -> T:
    """Read ``body`` as JSON of ``shape``. Raises ``ApiError`` with the place of the fault, never with the content."""
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad_request(f"The body cannot be read: {error}") from error


def encode(value: object) -> bytes:
    """JSON."""
    return msgspec.json.encode(value)


def event(value: object) -> bytes:
    """One server-sent event, as OpenAI's streams have it."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def named_event(name: str, value: dict[str, Any]) -> bytes:
    """One server-sent event with its type both as its name and in its data."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode({"type": name} | value))


def token_text(token: int) -> str:
    """The text of token number ``token`` of any answer: numbered, so that a lost or doubled one is seen."""
    return f" t{token}"


def count_tokens(text: str) -> int:
    """Tokens of ``text``."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return -(-size // BYTES_PER_TOKEN)


def token_ids(text: str) -> list[int]:
    """Tokens of ``text`` as numbers: each one's bytes, read as a little-endian integer."""
    data = text.encode("utf-8", "surrogatepass")
    ids = array.array("I", data + b"\0" * (-len(data) % BYTES_PER_TOKEN))
    return ids.tolist()


PromptItem = str | int | list[int]


def count_prompts(prompt: "str | list[PromptItem]", *, param: str) -> list[int]:
    """Tokens of each prompt in a text, a list of texts, token ids or a list of token ids. Raises ``ApiError``."""
    if isinstance(prompt, str):
        return [count_tokens(prompt)]
    if prompt and all(type(item) is int for item in prompt):
        return [len(prompt)]
    if not prompt:
        raise bad_request(f"`{param}` is empty.", param=param)
    if len(prompt) > MAX_PROMPTS:
        raise bad_request(f"`{param}` has more than {MAX_PROMPTS} items.", param=param)
    counts = [
        count_tokens(item) if isinstance(item, str) else len(item) for item in prompt if not isinstance(item, int)
    ]
    if len(counts) != len(prompt):
        raise bad_request(f"`{param}` mixes token ids with prompts.", param=param)
    return counts
