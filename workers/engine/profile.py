"""What an engine can do and how long it takes, read from a YAML file.

The form of the times is that of measurements of vLLM 0.22 on an H100 (see the profiles): a step that only generates
takes ``base_secs``, a little for each sequence and a little for each token of their contexts; computing prompts in the
same step adds the time beyond ``base_secs`` that the new tokens take, attention included.
"""

from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import yaml

SUFFIX = ".yaml"
MAX_PROFILE_BYTES = 1 << 16


class ProfileError(ValueError):
    """A profile that does not exist or cannot be used; the message names the file and the field."""


class FrontendCosts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the API server adds to the first token, in seconds.

    A request takes ``secs`` and ``token_secs`` for each prompt token beyond ``free_tokens``, whatever is cached.
    ``busy_secs`` and ``busy_token_secs`` are the part of it for which the server can do nothing else.
    """

    secs: float = 0.0
    free_tokens: int = 0
    token_secs: float = 0.0
    busy_secs: float = 0.0
    busy_token_secs: float = 0.0

    def __post_init__(self) -> None:
        _not_negative(self)


class StepCosts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a step of the engine takes, in seconds.

    ``base_secs`` for anything at all, ``sequence_secs`` for each sequence that generates, ``context_token_secs`` for
    each token of their contexts. A prompt's new tokens take ``prefill_token_secs`` each, and ``attention_secs`` for
    each pair of a new token and one before it. A step that computes more than ``eager_tokens`` prompt tokens runs
    without CUDA graphs, so these take ``eager_secs`` at least.
    """

    base_secs: float
    sequence_secs: float = 0.0
    context_token_secs: float = 0.0
    prefill_token_secs: float
    attention_secs: float = 0.0
    eager_tokens: int = 512
    eager_secs: float = 0.0

    def __post_init__(self) -> None:
        _not_negative(self)
        if self.base_secs <= 0 or self.prefill_token_secs <= 0:
            raise ValueError("step.base_secs and step.prefill_token_secs must be above 0")

    def prefill_secs(self, new: int, before: int) -> float:
        """Return how long ``new`` prompt tokens after ``before`` others take, without the bounds of a step."""
        return new * (self.prefill_token_secs + self.attention_secs * (before + new / 2))


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An engine. Names of vLLM's options are as there; ``kv_cache_tokens`` is the room of its KV cache.

    ``max_loras`` adapters may be in one batch; ``lora_load_secs`` is what an adapter takes that was not.
    """

    step: StepCosts
    frontend: FrontendCosts = msgspec.field(default_factory=FrontendCosts)
    block_size: int = 16
    kv_cache_tokens: int = 360_448
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    enable_prefix_caching: bool = True
    max_loras: int = 1
    lora_load_secs: float = 0.0

    def __post_init__(self) -> None:
        _not_negative(self)
        for name in ("block_size", "max_num_seqs", "max_num_batched_tokens", "max_loras"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.kv_cache_tokens < 2 * self.block_size:
            raise ValueError("kv_cache_tokens must be at least two blocks")

    @property
    def num_blocks(self) -> int:
        """Blocks of the KV cache."""
        return self.kv_cache_tokens // self.block_size

    def lone_ttft_secs(self, prompt_tokens: int, cached_tokens: int) -> float:
        """Return the time to the first token of a request that has the engine to itself."""
        step, frontend = self.step, self.frontend
        secs = frontend.secs + frontend.token_secs * max(prompt_tokens - frontend.free_tokens, 0)
        done = cached_tokens
        while done < prompt_tokens:
            new = min(prompt_tokens - done, self.max_num_batched_tokens)
            floor = max(step.base_secs, step.eager_secs if new > step.eager_tokens else 0.0)
            secs += max(floor, step.prefill_secs(new, done))
            done += new
        return secs


def profile_names() -> list[str]:
    """Return the names of the profiles that come with this package."""
    folder = resources.files("workers.engine") / "profiles"
    return sorted(entry.name.removesuffix(SUFFIX) for entry in folder.iterdir() if entry.name.endswith(SUFFIX))


def load_profile(name: str, **changes: object) -> Profile:
    """Read a profile by its name, or from a file if ``name`` ends in ``.yaml``; ``changes`` replace top-level fields.

    Raises :class:`ProfileError`.
    """
    text = _text_of(name)
    try:
        document: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ProfileError(f"{name}: no YAML: {error}") from error
    if not isinstance(document, dict):
        raise ProfileError(f"{name}: a profile is a mapping")
    try:
        return msgspec.convert(document | changes, Profile)
    except msgspec.ValidationError as error:
        raise ProfileError(f"{name}: {error}") from error


def _text_of(name: str) -> str:
    if not name.endswith(SUFFIX):
        if name not in profile_names():
            raise ProfileError(f"{name}: no such profile; there are {', '.join(profile_names())}, or give a .yaml file")
        return (resources.files("workers.engine") / "profiles" / (name + SUFFIX)).read_text()
    try:
        with Path(name).open("rb") as file:
            content = file.read(MAX_PROFILE_BYTES + 1)
        if len(content) > MAX_PROFILE_BYTES:
            raise ProfileError(f"{name}: a profile has at most {MAX_PROFILE_BYTES} bytes")
        return content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"{name}: cannot be read: {error}") from error


def _not_negative(costs: msgspec.Struct) -> None:
    for name, value in msgspec.structs.asdict(costs).items():
        # Written so that NaN is refused too.
        if isinstance(value, int | float) and not 0 <= value < float("inf"):
            raise ValueError(f"{name} must be a number from 0 on")
