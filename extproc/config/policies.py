"""Policies: which one chooses, what it returns, and the parameters of each.

Names, defaults and meaning of what the Shepherd Model Gateway has too are as there, so that its users can move.
"""

import dataclasses
from typing import Literal

from extproc.config.setting import setting


@dataclasses.dataclass(frozen=True, slots=True)
class RoutingSettings:
    """Settings of the choice and of how it is told to the data plane."""

    policy: str = setting("expected_latency", "Name of the load-balancing policy; a model may have its own.")
    shadow_policy: str = setting(
        "", "A second policy that decides too: its choices are counted and compared, and never act. Empty: none."
    )
    override_policies: tuple[str, ...] = setting(
        (),
        "Policies that a request may choose by its header `x-extproc-policy` (or `x-smg-policy`). Empty: the headers "
        "are not read.",
    )
    max_endpoints: int = setting(
        3, "Length of the ordered endpoint list: the first choice and its fall-backs.", unit="endpoints", low=1, high=16
    )
    destination: Literal["list", "single"] = setting(
        "list",
        "`list` for the `override_host` balancer, which walks it on retries; `single` for an `ORIGINAL_DST` cluster, "
        "which rejects lists.",
    )
    on_error: Literal["open", "closed"] = setting(
        "open",
        "On a fault of our own: `open` lets the data plane balance the request by itself, `closed` answers 500. "
        "Counted either way.",
    )
    decision_header: bool = setting(
        False,  # noqa: FBT003
        "Add `x-extproc-decision` (worker, policy, reason, and what else explains it) to responses. Needs the response "
        "headers phase.",
    )
    prefix_index_bytes: int = setting(
        128 << 20,
        "Shared memory of the prefix index: which worker holds which prefix. 36 bytes a block and 64 workers; what was "
        "recorded longest ago is given up first.",
        unit="bytes",
        low=1 << 16,
        high=1 << 40,
    )
    prefix_half_life_secs: float = setting(
        0.0,
        "A recorded prefix counts half after this time without being sent again; 0: never.",
        unit="seconds",
        low=0,
    )
    attention_tokens: float = setting(
        24_000,
        "Context at which attention doubles the work of computing a prompt token (measured: 24,000 for an 8B model, "
        "14,000 for 1B).",
        unit="tokens",
        low=1,
    )
    assumed_answer_tokens: int = setting(
        256, "Length taken for an answer that the request does not limit.", unit="tokens", low=1, high=1_000_000
    )


@dataclasses.dataclass(frozen=True, slots=True)
class PowerOfTwoSettings:
    """Parameters of `power_of_two`."""

    load_metric: Literal["expected_wait", "requests", "kv_usage"] = setting(
        "expected_wait", "What is compared: the score of `least_load`, requests in flight, or KV cache usage."
    )


@dataclasses.dataclass(frozen=True, slots=True)
class CacheAwareSettings:
    """Parameters of `cache_aware`."""

    cache_threshold: float = setting(
        0.3, "Share of the prompt that a worker must hold for affinity to count.", low=0, high=1
    )
    balance_abs_threshold: float = setting(
        64, "How many requests over the mean are too many, where the share is reached too.", unit="requests", low=0
    )
    balance_rel_threshold: float = setting(
        1.5, "How many times the mean are too many; a worker with too many gives way to the least loaded.", low=1
    )


@dataclasses.dataclass(frozen=True, slots=True)
class BucketSettings:
    """Parameters of `bucket`."""

    adjust_interval_secs: float = setting(
        5.0, "How often the ranges of prompt lengths are learned anew.", unit="seconds", low=0.05
    )
    balance_abs_threshold: int = setting(
        64, "How far what workers were sent may differ, where the share is reached too, in requests of mean length.",
        unit="requests",
        low=0,
    )  # fmt: skip
    balance_rel_threshold: float = setting(
        1.5, "How many times the least the most may be; else the worker that was sent least is chosen.", low=1
    )


@dataclasses.dataclass(frozen=True, slots=True)
class ManualSettings:
    """Parameters of `manual`."""

    assignment_mode: Literal["random", "min_load", "min_group"] = setting(
        "random",
        "Where a new key goes: to any worker, the least loaded, or the one that was given the fewest keys.",
    )
    max_idle_secs: int = setting(14_400, "A key unused for this long is forgotten.", unit="seconds", low=1)
    max_entries: int = setting(
        1_000_000, "Keys that are remembered; the least recently used goes first.", low=8, high=100_000_000
    )


@dataclasses.dataclass(frozen=True, slots=True)
class ConsistentHashingSettings:
    """Parameters of `consistent_hashing`."""

    virtual_nodes: int = setting(150, "Points of each worker on the ring.", low=1, high=10_000)
    load_factor: float = setting(
        1.25, "A worker with more than this many times the mean of requests is passed over; 0: never.", low=0
    )
    header_names: tuple[str, ...] = setting(
        (), "Headers whose value is the key where a request has no routing key. Never one with a credential."
    )


@dataclasses.dataclass(frozen=True, slots=True)
class PrefixHashSettings:
    """Parameters of `prefix_hash`."""

    prefix_token_count: int = setting(
        256, "Leading tokens that are the key; of a text, four times as many bytes.", unit="tokens", low=1
    )
    load_factor: float = setting(
        1.25, "The ring's worker is taken if its requests are at most this many times the mean.", low=1
    )
    balance_abs_threshold: int = setting(
        10,
        "It is also taken with so many requests over the mean; else the next on the ring that may be.",
        unit="requests",
        low=0,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class ExpectedLatencySettings:
    """Parameters of `expected_latency`."""

    stall_weight: float = setting(
        0.005,
        "Weight of the time by which our prefill stalls each running answer, beside our own time to first token.",
        low=0,
        high=100,
    )
    work_weight: float = setting(
        0.2,
        "Weight of the GPU time that our prefill takes: a worker without the prefix must be sooner by so much of it.",
        low=0,
        high=100,
    )
    eviction_weight: float = setting(
        0.5, "Weight of computing again what our blocks displace from a full cache.", low=0, high=100
    )
    cached_token_secs: float = setting(
        2.1e-6, "Cost of a prompt token that is cached already.", unit="seconds", low=0, high=1
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PolicyParameters:
    """The parameters of the whole family, by the names of the policies."""

    power_of_two: PowerOfTwoSettings = dataclasses.field(default_factory=PowerOfTwoSettings)
    cache_aware: CacheAwareSettings = dataclasses.field(default_factory=CacheAwareSettings)
    bucket: BucketSettings = dataclasses.field(default_factory=BucketSettings)
    manual: ManualSettings = dataclasses.field(default_factory=ManualSettings)
    consistent_hashing: ConsistentHashingSettings = dataclasses.field(default_factory=ConsistentHashingSettings)
    prefix_hash: PrefixHashSettings = dataclasses.field(default_factory=PrefixHashSettings)
    expected_latency: ExpectedLatencySettings = dataclasses.field(default_factory=ExpectedLatencySettings)
