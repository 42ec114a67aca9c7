"""The loaded models by every name a request may use, kept in step with their settings and their files."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from extproc.config.models import ModelSpec
from extproc.config.tokens import TokensSettings
from extproc.errors import ModelUnusable
from extproc.models.files import Stamp, stamp_of
from extproc.models.model import Model, load_model
from extproc.models.source import find_source
from extproc.shm.token_store import TokenStore
from extproc.telemetry.metrics import TokenMetrics
from extproc.tokens.encoder import INTERRUPTS

logger = logging.getLogger(__name__)


class Shelved(NamedTuple):
    """What a name stands for: a model, None while it cannot be loaded, and one of its adapters or nothing."""

    model: Model | None
    adapter: str


@dataclasses.dataclass(slots=True)
class _Entry:
    """What is known of one configured model: as it was loaded, or last tried, and as its files were seen last."""

    spec: ModelSpec
    model: Model | None = None
    source: Path | None = None
    loaded: Stamp = ()
    seen: Stamp = ()


class ModelShelf:
    """Loads models and finds them by name.

    :meth:`update` takes as long as loading does and belongs on a thread; meanwhile, and on any thread, :meth:`find`
    answers from what is loaded. A model whose new files cannot be used stays as it is; one that never could is known by
    name only.
    """

    def __init__(self, *, settings: TokensSettings, store: TokenStore | None, metrics: TokenMetrics) -> None:
        self._settings = settings
        self._store = store
        self._metrics = metrics
        self._entries: dict[str, _Entry] = {}
        self._names: dict[str, Shelved] = {}

    def __bool__(self) -> bool:
        return bool(self._names)

    def find(self, name: str) -> Shelved | None:
        """Return what a request's ``model`` stands for, or None when it is no configured name."""
        return self._names.get(name)

    def models(self) -> list[tuple[ModelSpec, Model | None]]:
        """Return every configured model."""
        return [(entry.spec, entry.model) for entry in self._entries.values()]

    def update(self, specs: Sequence[ModelSpec]) -> None:
        """Load what is new or has changed, and drop what is gone.

        A new model's names are known before it is loaded, so that its requests are counted as going without tokens.
        """
        known, self._entries = self._entries, {}
        for spec in specs:
            self._entries[spec.name] = known.get(spec.name) or _Entry(spec)
        self._name(specs)
        for spec in specs:
            entry = self._entries[spec.name]
            if spec.name not in known or entry.spec != spec or self._has_changed(entry):
                self._load(entry, spec)
                self._name(specs)
            self._heed_revocation(entry)

    def _name(self, specs: Sequence[ModelSpec]) -> None:
        self._names = {
            name: Shelved(self._entries[spec.name].model, name if name in spec.lora_adapters else "")
            for spec in specs
            for name in (spec.name, *spec.aliases, *spec.lora_adapters)
        }

    def revoke(self, model: Model) -> None:
        """Stop the use of a model's prefixes, here and in all other processes: one of them has proved wrong."""
        if self._store is not None and model.uses_prefixes:
            self._store.revoke(model.fingerprint)
            self._drop_prefixes(model)

    def _has_changed(self, entry: _Entry) -> bool:
        """Whether the files have changed and come to rest again, so that none is read half written."""
        try:
            source = entry.source or find_source(dataclasses.replace(entry.spec, allow_download=False))
            last, entry.seen = entry.seen, stamp_of(source, entry.spec)
        except Exception:  # noqa: BLE001 - what cannot be looked at has not changed
            return False
        return entry.seen not in ((), entry.loaded) and entry.seen == last

    def _load(self, entry: _Entry, spec: ModelSpec) -> None:
        # Until it is found, it is looked for anew: what was there may be gone, and the settings may name another place.
        entry.spec, entry.source = spec, None
        try:
            source = find_source(spec)
            entry.loaded = entry.seen = stamp_of(source, spec)
            entry.source = source
            model = load_model(
                spec,
                source=source,
                wanted=self._settings.backend,
                store=self._store,
                min_prefix_bytes=self._settings.min_prefix_bytes,
            )
        except INTERRUPTS:
            raise
        except BaseException as error:  # noqa: BLE001 - see below
            # Whatever it is (a directory that may not be entered, a panic of native code): the others go on.
            self._metrics.model_loads.labels(spec.name, "none", "unusable").inc()
            kept = "the one loaded before stays in use" if entry.model else "its requests are routed without tokens"
            why = error if isinstance(error, ModelUnusable | OSError) else f"{type(error).__name__}: {error}"
            logger.error("Model %s cannot be loaded, %s: %s", spec.name, kept, why)  # noqa: TRY400 - for the operator
            return
        entry.model = model
        backend = model.backend
        self._metrics.model_loads.labels(spec.name, backend.encoder.name, backend.reason).inc()
        why = f" ({backend.reason})" if backend.reason else ""
        tokens = " ".join(token.content for token in model.cache.boundaries.tokens) or "none"
        logger.info("Loaded model %s from %s: encoder %s%s", spec.name, source, backend.encoder.name, why)
        logger.info("Model %s: prompts may be cut after: %s", spec.name, tokens)
        if self._store is not None and not model.uses_prefixes:
            self._metrics.prefixes_off.labels(spec.name, "no_boundary").inc()

    def _heed_revocation(self, entry: _Entry) -> None:
        model = entry.model
        if model is None or self._store is None or not model.uses_prefixes:
            return
        if model.fingerprint in self._store.revoked():
            self._drop_prefixes(model)

    def _drop_prefixes(self, model: Model) -> None:
        model.without_prefixes()
        self._metrics.prefixes_off.labels(model.spec.name, "mismatch").inc()
        logger.error("Model %s: a prefix gave other ids than the whole prompt; prefixes are not used", model.spec.name)
