"""What becomes of one request's prompt, step by step, for people."""

from time import perf_counter

import msgspec

from extproc.api.body import RequestBody, decode
from extproc.api.paths import DECODERS
from extproc.api.prompt_input import ChatInput, TextInput
from extproc.errors import InvalidRequest
from extproc.models.model import Model
from extproc.tokens.prompt_cache import Encoding
from extproc.tokens.prompt_tokens import CacheResult, PromptTokens


class Cut(msgspec.Struct, frozen=True):
    """A safe boundary: how many bytes of text and how many tokens lie before it, and the token that it follows."""

    bytes: int
    tokens: int
    after: str


class Timings(msgspec.Struct, frozen=True):
    """Seconds that each step took; the same for all prompts of a request.

    ``recall`` looks up the request as a whole, ``prepare`` decodes, renders and looks up the text, ``encode`` encodes
    what is not known, ``finish`` hashes blocks and stores what is new.
    """

    recall: float
    prepare: float = 0.0
    encode: float = 0.0
    finish: float = 0.0


class Inspection(msgspec.Struct, frozen=True):
    """One prompt: ``text`` is None where the client sent ids."""

    model: str
    adapter: str
    encoder: str
    text: str | None
    count: int
    tokens: list[int]
    boundaries: list[Cut]
    block_size: int
    blocks: int
    exact: bool
    cache: CacheResult
    reused_bytes: int
    reused_tokens: int
    seconds: Timings


def read_body(path: str, content: bytes) -> RequestBody:
    """Decode a request body of the API at ``path``; raises :class:`InvalidRequest`."""
    decoder = DECODERS.get(path)
    if decoder is None:
        raise InvalidRequest(f"{path} is none of {', '.join(DECODERS)}.")
    body: RequestBody = decode(decoder, content)
    return body


def inspect(model: Model, adapter: str, body: RequestBody) -> list[Inspection]:
    """Tokenize the prompts of a body as a router does, cache included; raises :class:`InvalidRequest`."""
    parts = body.prompt_parts()
    if parts is None:
        body.validate()
        raise InvalidRequest("The body has no prompt that can be tokenized.")
    started = perf_counter()
    key = model.whole_key(body, adapter, parts)
    known = None if key is None else model.recall(key)
    recalled = perf_counter()
    if known is not None:
        results, seconds = [known], Timings(recalled - started)
    else:
        prompts = model.prepare(body, adapter, key)
        prepared = perf_counter()
        ids = [prompt.encode() if isinstance(prompt, Encoding) else None for prompt in prompts]
        encoded = perf_counter()
        results = [
            prompt.finish(rest) if isinstance(prompt, Encoding) and rest is not None else _known(prompt)
            for prompt, rest in zip(prompts, ids, strict=True)
        ]
        finished = perf_counter()
        seconds = Timings(recalled - started, prepared - recalled, encoded - prepared, finished - encoded)
    results = [model.truncated(tokens, body) for tokens in results]
    texts = _texts(model, body)
    return [
        _inspection(model, adapter, tokens, texts[index] if texts else None, seconds)
        for index, tokens in enumerate(results)
    ]


def _known(prompt: Encoding | PromptTokens) -> PromptTokens:
    assert not isinstance(prompt, Encoding)
    return prompt


def _texts(model: Model, body: RequestBody) -> list[str]:
    prompt = body.prompt_input()
    if isinstance(prompt, ChatInput):
        return [model.render(prompt)[0]]
    return list(prompt.texts) if isinstance(prompt, TextInput) else []


def _inspection(model: Model, adapter: str, tokens: PromptTokens, text: str | None, seconds: Timings) -> Inspection:
    return Inspection(
        model=model.spec.name,
        adapter=adapter,
        encoder=model.backend.encoder.name,
        text=text,
        count=len(tokens.ids),
        tokens=tokens.ids.tolist(),
        boundaries=[] if text is None else _cuts(model, tokens, text),
        block_size=tokens.block_size,
        blocks=len(tokens.block_hashes),
        exact=tokens.exact,
        cache=tokens.cache,
        reused_bytes=tokens.reused_bytes,
        reused_tokens=tokens.reused_tokens,
        seconds=seconds,
    )


def _cuts(model: Model, tokens: PromptTokens, text: str) -> list[Cut]:
    boundaries = model.cache.boundaries
    offsets = boundaries.in_text(text.encode())
    positions = boundaries.in_ids(tokens.ids).tolist()
    if len(positions) != len(offsets):
        # Tokens that surround a text may be boundary tokens themselves.
        before, after = model.surroundings
        inside = range(before + 1, len(tokens.ids) - after + 1)
        positions = [position for position in positions if position in inside]
    if len(positions) != len(offsets):
        return []
    names = {token.id: token.content for token in boundaries.tokens}
    return [
        Cut(offset, position, names[int(tokens.ids[position - 1])])
        for offset, position in zip(offsets, positions, strict=True)
    ]
