"""Tokens: when prompts become token ids, how much of that is kept, and what it may cost."""

import dataclasses
from typing import Literal

from extproc.config.server import MIB
from extproc.config.setting import setting


@dataclasses.dataclass(frozen=True, slots=True)
class TokensSettings:
    """Settings of the tokenization of prompts to configured models."""

    when: Literal["always", "needed"] = setting(
        "always", "Tokenize every request to a configured model, or only when the policy needs tokens."
    )
    backend: Literal["auto", "tokenizers"] = setting(
        "auto",
        "Library that encodes. `auto`: `fastokens`, for the models where its self-check against `tokenizers` passes.",
    )
    cache_bytes: int = setting(
        256 * MIB,
        "Shared memory of the token cache, for all processes together: 0 (off), or at least 16 MiB.",
        unit="bytes",
        low=0,
        high=1 << 40,
    )
    min_prefix_bytes: int = setting(
        1024,
        "A shorter known beginning is used only where it is an eighth of the prompt; else encoding it is quicker.",
        unit="bytes",
        low=0,
        high=1 << 20,
    )
    verify_share: float = setting(
        0.001,
        "Share of the cache's prefix hits that are verified by encoding the whole prompt in the background.",
        low=0,
        high=1,
    )
    inline_secs: float = setting(
        0.002,
        "A prompt whose encoding is expected to take longer is encoded on a thread.",
        unit="seconds",
        low=0,
        high=1,
    )
    max_wait_secs: float = setting(
        1.0,
        "A prompt that is not encoded by then goes on without tokens; less than `server.decision_timeout_secs`.",
        unit="seconds",
        low=0.001,
        high=600,
    )
    encode_threads: int = setting(2, "Threads that encode, in each router.", unit="threads", low=1, high=64)
    max_pending_encodings: int = setting(
        256,
        "Prompts that wait for a thread in one router; further requests go on without tokens and are counted.",
        unit="prompts",
        low=1,
        high=100_000,
    )
    max_prompt_bytes: int = setting(
        16 * MIB, "Requests with a longer prompt go on without tokens.", unit="bytes", low=1024, high=1024 * MIB
    )
    max_prompts: int = setting(
        2048,
        "Requests with more prompts go on without tokens. Each costs as much as some thousand bytes, however short.",
        unit="prompts",
        low=1,
        high=100_000,
    )
    reload_interval_secs: float = setting(
        2.0, "How often the files of the models are checked for a change.", unit="seconds", low=0.05
    )
