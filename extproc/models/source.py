"""Where the files of a model are: a path, an installed package, or the local cache of a hub."""

import importlib.metadata
from pathlib import Path

from extproc.config.models import ModelSpec
from extproc.errors import ModelUnusable

PACKAGE_PREFIX = "package:"
TIKTOKEN_SUFFIXES = (".tiktoken", "tiktoken.model")
TOKENIZER_FILE = "tokenizer.json"
_HUB_FILES = (
    TOKENIZER_FILE, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json",
    "generation_config.json",
    "*.tiktoken", "tiktoken.model", "*.jinja", "additional_chat_templates/*.jinja",
)  # fmt: skip


def find_source(spec: ModelSpec) -> Path:
    """Return the directory of a model, or its tokenizer file when that is all there is.

    A path that exists is taken first, then an installed package, then a snapshot in the hub's local cache; the hub
    itself is asked only when the model allows it. Raises :class:`ModelUnusable` with what was looked for.
    """
    source = spec.source or spec.name
    if source.startswith(PACKAGE_PREFIX):
        found = _in_package(source.removeprefix(PACKAGE_PREFIX))
        if found is None:
            raise ModelUnusable(f"{source}: no such package is installed, or none of its files is a tokenizer")
        return found
    try:
        path = Path(source).expanduser()
        exists = path.exists()
    except (OSError, RuntimeError) as error:
        # Too long a name, or the home directory of nobody.
        raise ModelUnusable(f"{source}: cannot be looked for: {error}") from error
    if exists:
        return path
    if path.is_absolute() or source.startswith((".", "~")) or source.endswith(TIKTOKEN_SUFFIXES):
        raise ModelUnusable(f"{path}: no such file or directory")
    return _in_package(source) or _in_hub_cache(source, spec)


def _in_package(name: str) -> Path | None:
    """Return where an installed distribution has its tokenizer. None of its code is run."""
    try:
        files = importlib.metadata.files(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None
    for suffixes in ((TOKENIZER_FILE,), TIKTOKEN_SUFFIXES):
        for file in files or ():
            if file.name.endswith(suffixes):
                located = Path(str(file.locate()))
                return located.parent if file.name == TOKENIZER_FILE else located
    return None


def _in_hub_cache(source: str, spec: ModelSpec) -> Path:
    # Half a second to import, and only needed here.
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        snapshot = snapshot_download(
            source,
            revision=spec.revision or None,
            local_files_only=not spec.allow_download,
            allow_patterns=list(_HUB_FILES),
        )
    except HFValidationError as error:
        raise ModelUnusable(f"{source}: no such directory, and no name of a package or of a hub model") from error
    except LocalEntryNotFoundError as error:
        hint = "" if spec.allow_download else "; `allow_download: true` lets it be fetched"
        raise ModelUnusable(f"{source}: no such directory or package, and not in the local hub cache{hint}") from error
    except Exception as error:
        raise ModelUnusable(f"{source}: cannot be fetched from the hub: {type(error).__name__}") from error
    return Path(snapshot)
