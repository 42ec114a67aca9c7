"""KV-cache events: how the service follows what engines say of their caches, and how far it believes it."""

import dataclasses
from typing import Literal

from extproc.config.server import MIB
from extproc.config.setting import setting


@dataclasses.dataclass(frozen=True, slots=True)
class KvEventsSettings:
    """Settings of the KV-cache events of engines, of the check of what they say, and of the snapshot."""

    mode: Literal["auto", "off"] = setting(
        "auto",
        "`auto` follows the events of every worker that tells where they are (`/kv_event_sources`), or for which an "
        "endpoint is set; `off` follows none. What a worker tells is used on its own host only, and bound on loopback "
        "only.",
    )
    endpoint: str = setting(
        "",
        "Endpoint of the events of workers that do not tell, written as in vLLM's `--kv-events-config`: with `*`, `::` "
        "or `ipc:` the engine binds it and the service connects to the worker's host, else the service binds it. "
        "`{host}` stands for the worker's host. A data parallel rank adds its number to the port.",
    )
    replay_endpoint: str = setting("", "The engines' `replay_endpoint`, likewise. Empty: lost events stay lost.")
    topic: str = setting("", "The engines' `topic`, with `{address}` for a worker's `IP:PORT`. Empty: every topic.")
    max_pending_batches: int = setting(
        10_000,
        "Batches of one engine that may wait, in the socket and while a replay is under way; more are dropped and "
        "asked for again.",
        unit="batches",
        low=16,
        high=1_000_000,
    )
    max_pending_bytes: int = setting(64 * MIB, "Bytes that they may have.", unit="bytes", low=MIB, high=1 << 40)
    replay_timeout_secs: float = setting(
        2.0, "A replay that brings nothing for so long has failed.", unit="seconds", low=0.05, high=600
    )
    replay_attempts: int = setting(
        5, "Replays in a row without a new batch before what is missing is given up.", unit="replays", low=1, high=100
    )
    silent_after_secs: float = setting(
        10.0,
        "An engine that computes prompts and announces nothing for so long is reported, and not believed any more.",
        unit="seconds",
        low=0.5,
        high=86_400,
    )
    max_blocks: int = setting(
        200_000,
        "Blocks of one engine that are remembered, those included that are gone and may still be somebody's parent. "
        "About 300 bytes each, in the observer.",
        unit="blocks",
        low=1024,
        high=1 << 30,
    )
    max_orphans: int = setting(
        1024, "Events of one engine that wait for the block they follow.", unit="events", low=0, high=1 << 20
    )
    orphan_secs: float = setting(
        1.0, "How long such an event waits before it is rejected.", unit="seconds", low=0, high=3600
    )
    lower_tier_weight: float = setting(
        0.8,
        "What a block is worth that an engine holds in another place than the GPU's memory, from where it has to be "
        "loaded; a block in the GPU's memory is worth 1.",
        low=0,
        high=1,
    )
    speculative_secs: float = setting(
        2.0,
        "What was sent to an engine whose events are followed is forgotten so long after the end of its request "
        "unless an event has confirmed it.",
        unit="seconds",
        low=0,
        high=3600,
    )
    sample_share: float = setting(
        0.01,
        "Share of the answers in which `usage.prompt_tokens_details.cached_tokens` is read and compared with what was "
        "predicted. Needs vLLM's `--enable-prompt-tokens-details`.",
        low=0,
        high=1,
    )
    min_precision: float = setting(
        0.7,
        "A worker whose predictions agree less than this with what it reports (1: always) is not believed any more. "
        "0: whatever comes.",
        low=0,
        high=1,
    )
    snapshot_file: str = setting(
        "", "File for what is known of the caches, so that a restart begins with it. Empty: none is written."
    )
    snapshot_interval_secs: float = setting(
        60.0, "How often it is written, beside at the end.", unit="seconds", low=1, high=86_400
    )
    snapshot_max_age_secs: float = setting(600.0, "An older one is ignored.", unit="seconds", low=1, high=1e7)
