"""What every API has in common: the question, the answer, and the rule that says how many tokens a text has.

A token is four bytes of UTF-8, the last one possibly fewer. The rule is cheap, deterministic and gives equal prefixes
equal tokens; it is nobody's tokenizer. Token ids are 32-bit little-endian integers one after the other, so those of a
text are its bytes, filled up with zeros to whole tokens. A conversation is its texts, each filled up.
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
    """What a request for text asks.

    ``prompts`` are the token ids of each prompt, ``choices`` the answers to all of them together. ``limit`` is the most
    tokens an answer may have, if the request says so.
    """

    model: str | None
    prompts: tuple[bytes, ...]
    limit: int | None = None
    choices: int = 1
    stream: bool = False
    include_usage: bool = False
    cache_salt: str = ""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(map(len, self.prompts)) // BYTES_PER_TOKEN

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt."""
        return max(map(len, self.prompts)) // BYTES_PER_TOKEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What identifies any answer: ``worker`` is the one that served it."""

    id: str
    created: int
    model: str
    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A generated answer of ``tokens`` tokens in each of its choices.

    ``word`` gives the text of each token by its number. ``cached_tokens`` is None where there is no prefix cache.
    """

    stamp: Stamp
    prompt_tokens: int
    tokens: int
    choices: int
    finish: Literal["stop", "length"]
    include_usage: bool
    word: Callable[[int], str]
    cached_tokens: int | None = None

    @property
    def text(self) -> str:
        """The whole text of one choice."""
        return "".join(map(self.word, range(1, self.tokens + 1)))

    def usage(self) -> dict[str, Any]:
        """OpenAI's usage object."""
        generated = self.tokens * self.choices
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + generated,
            "completion_tokens": generated,
            "prompt_tokens_details": None if self.cached_tokens is None else {"cached_tokens": self.cached_tokens},
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


def aligned_text(token: int) -> str:
    """The text of token number ``token`` of an answer whose tokens are four bytes: numbered modulo 1000.

    An answer that comes back as part of the next prompt has the tokens again that it had.
    """
    return f" {token % _ALIGNED_WORDS:03}"


def aligned_ids(tokens: int) -> bytes:
    """The token ids of an answer made of ``aligned_text``."""
    return (_CYCLE * (tokens // _ALIGNED_WORDS + 1))[: tokens * BYTES_PER_TOKEN]


_ALIGNED_WORDS = 1000
_CYCLE = "".join(map(aligned_text, range(1, _ALIGNED_WORDS + 1))).encode()


def text_ids(text: str) -> bytes:
    """Token ids of ``text``."""
    data = text.encode("utf-8", "surrogatepass")
    return data + bytes(-len(data) % BYTES_PER_TOKEN)


def token_ids(text: str) -> list[int]:
    """Token ids of ``text`` as numbers."""
    return array.array("I", text_ids(text)).tolist()


PromptItem = str | int | list[int]


def read_prompts(prompt: "str | list[PromptItem]", *, param: str) -> tuple[bytes, ...]:
    """Token ids of each prompt in a text, a list of texts, token ids or a list of token ids. Raises ``ApiError``."""
    if isinstance(prompt, str):
        return (text_ids(prompt),)
    if prompt and all(type(item) is int for item in prompt):
        return (_packed(prompt, param=param),)
    if not prompt:
        raise bad_request(f"`{param}` is empty.", param=param)
    if len(prompt) > MAX_PROMPTS:
        raise bad_request(f"`{param}` has more than {MAX_PROMPTS} items.", param=param)
    prompts = tuple(
        text_ids(item) if isinstance(item, str) else _packed(item, param=param)
        for item in prompt
        if not isinstance(item, int)
    )
    if len(prompts) != len(prompt):
        raise bad_request(f"`{param}` mixes token ids with prompts.", param=param)
    return prompts


def _packed(ids: "list[Any]", *, param: str) -> bytes:
    try:
        return array.array("I", ids).tobytes()
    except OverflowError as error:
        raise bad_request(f"`{param}` has a token id that is not below 2**32, or is negative.", param=param) from error
