"""Tokens for the admin pages: the observer's own shelf of models over the cache that all routers share."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from extproc.config.models import ModelSpec
from extproc.errors import ModelNotFound, NoEndpoint
from extproc.models.inspection import Inspection, inspect, read_body
from extproc.models.shelf import ModelShelf
from extproc.shm.token_store import StoreState, TokenStore

TOKENIZE_PATH = "/tokenize"


class ObservedTokens:
    """See :class:`~extproc.admin.tokens.TokenService`.

    The models are loaded when one is first asked for, so an observer that nobody asks carries none. ``specs`` returns
    the configured models as they are now.
    """

    def __init__(
        self, *, shelf: ModelShelf, store: TokenStore | None, specs: Callable[[], Sequence[ModelSpec]]
    ) -> None:
        self._shelf = shelf
        self._store = store
        self._specs = specs

    def tokenize(self, body: bytes) -> list[Inspection]:
        """Tokenize a body like that of vLLM's `/tokenize`; raises :class:`~extproc.errors.Refusal`."""
        request = read_body(TOKENIZE_PATH, body)
        for _look in range(2):
            # Files that have changed are read again once two looks at them agree.
            self._shelf.update(self._specs())
        shelved = self._shelf.find(request.model)
        if shelved is None:
            raise ModelNotFound("The model is not among the configured ones.", param="model")
        if shelved.model is None:
            raise NoEndpoint("The model cannot be loaded; the log says why.", param="model")
        return inspect(shelved.model, shelved.adapter, request)

    def caches(self) -> Mapping[str, Any]:
        """Return how full the token cache is, and the configured models."""
        state = self.store_state()
        models = [
            {
                "name": spec.name,
                "aliases": spec.aliases,
                "lora_adapters": spec.lora_adapters,
                "block_size": spec.block_size,
            }
            for spec in self._specs()
        ]
        return {"token_cache": None if state is None else state._asdict(), "models": models}

    def flush(self) -> bool:
        """Empty the token cache; False when another process holds its lock."""
        return self._store is None or self._store.flush()

    def store_state(self) -> StoreState | None:
        """How full the cache is; None when there is none."""
        return None if self._store is None else self._store.state()
