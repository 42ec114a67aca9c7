"""Readers of prompts as a router has them, over models made for tests."""

import json
import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from extproc.api.body import RequestBody, decode
from extproc.api.paths import DECODERS
from extproc.config.models import ModelSpec
from extproc.config.tokens import TokensSettings
from extproc.index.block_hash import Ids
from extproc.models.reader import PromptReader
from extproc.models.shelf import ModelShelf
from extproc.shm.token_store import TokenStore
from extproc.telemetry.metrics import Metrics, TokenMetrics
from extproc.tokens.encoder import Encoder
from extproc.tokens.prompt_tokens import PromptTokens
from tests.support.models import make_model

CHAT = "/v1/chat/completions"


class Gated:
    """An encoder that waits until it is let go."""

    name = "gated"

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.gate = threading.Event()

    def encode(self, text: str) -> Ids:
        self.gate.wait()
        return self._encoder.encode(text)


def make_spec(directory: Path, kind: str, **settings: Any) -> ModelSpec:  # noqa: ANN401
    """A model of one of the kinds of :mod:`tests.support.models`, called by the kind's name."""
    return ModelSpec(name=kind, source=str(make_model(directory / kind, kind)), **settings)


class Reading:
    """A reader, its shelf and its metrics."""

    def __init__(self, *specs: ModelSpec, store: TokenStore | None = None, **settings: Any) -> None:  # noqa: ANN401
        self.settings = TokensSettings(**{"verify_share": 0.0, "inline_secs": 1.0, **settings})
        self.metrics = Metrics()
        self.token_metrics = TokenMetrics()
        self.store = store
        self.shelf = ModelShelf(settings=self.settings, store=store, metrics=self.token_metrics)
        self.shelf.update(specs)
        self.reader = PromptReader(
            shelf=self.shelf,
            settings=self.settings,
            metrics=self.metrics,
            token_metrics=self.token_metrics,
            rng=random.Random(0),
        )

    def read(self, model: str, path: str = CHAT, **fields: Any) -> tuple[PromptTokens, ...]:  # noqa: ANN401
        """Read the prompts of a body that is not left to a thread."""
        prompts = self.reader.read(parse(path, model=model, **fields), model)
        assert isinstance(prompts, tuple)
        return prompts

    def chat(self, model: str, messages: Sequence[Any], **fields: Any) -> PromptTokens:  # noqa: ANN401
        """Read a chat."""
        (prompt,) = self.read(model, messages=list(messages), **fields)
        return prompt

    def fallbacks(self, reason: str) -> float:
        """How often prompts were left out for ``reason``."""
        return float(self.metrics.fallbacks.labels(reason)._value.get())

    def counted(self, metric: str, *labels: str) -> float:
        """A counter of tokens."""
        self.reader.flush()
        return float(getattr(self.token_metrics, metric).labels(*labels)._value.get())


def parse(path: str, **fields: Any) -> RequestBody:  # noqa: ANN401
    body: RequestBody = decode(DECODERS[path], json.dumps(fields).encode())
    return body
