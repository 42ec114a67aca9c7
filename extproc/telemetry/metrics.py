"""Every metric, by name, in one place.

Processes write into memory-mapped files (``prometheus_client`` multiprocess mode, on when
``PROMETHEUS_MULTIPROC_DIR`` is set before this module is imported) and the observer adds them up. Labels come from
closed sets or from the configuration, never from a request.
"""

import os
from pathlib import Path

from prometheus_client import Counter, values

from extproc.telemetry.tally import TallyHistogram

DECISION_BUCKETS = (
    10e-6, 20e-6, 30e-6, 50e-6, 75e-6, 100e-6, 150e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 50e-3, 0.25, 1.0, 2.0,
)  # fmt: skip

TOKENIZE_BUCKETS = (
    25e-6, 50e-6, 100e-6, 150e-6, 250e-6, 400e-6, 600e-6, 1e-3, 2e-3, 5e-3, 10e-3, 25e-3, 0.1, 0.5, 2.0,
)  # fmt: skip

WAIT_BUCKETS = (1e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
FIRST_BYTE_BUCKETS = (
    5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0, 30.0, 60.0, 300.0,
)  # fmt: skip

LAG_BUCKETS = (1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)

METRIC_FILE_BYTES = 1 << 16
"""What ``prometheus_client`` makes a file at first."""


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        self.requests = Counter(
            "extproc_requests",
            "HTTP requests by outcome: `routed`, `open` (left to the data plane) or the reason of the refusal.",
            ["outcome"],
            registry=None,
        )
        self.decisions = Counter(
            "extproc_decisions",
            "Requests routed, by first choice, policy and the policy's reason.",
            ["worker", "policy", "reason"],
            registry=None,
        )
        self.decision_seconds = TallyHistogram(
            "extproc_decision_seconds",
            "Time from the last byte of the request that a decision needs to the decision.",
            buckets=DECISION_BUCKETS,
            registry=None,
        )
        self.fallbacks = Counter(
            "extproc_fallbacks", "Things done in a lesser way than configured, by reason.", ["reason"], registry=None
        )
        self._make_routing()
        self._make_processes()

    def _make_routing(self) -> None:
        self.shadow_decisions = Counter(
            "extproc_shadow_decisions",
            "What the shadow policy would have chosen: the `same` worker as the one that acts, or a `different` one.",
            ["policy", "reason", "result"],
            registry=None,
        )
        self.hooks = Counter(
            "extproc_hooks", "Calls of request hooks: `ok`, `refused`, `failed`, `timeout`.", ["hook", "result"],
            registry=None,
        )  # fmt: skip
        self.admission_wait_seconds = TallyHistogram(
            "extproc_admission_wait_seconds",
            "Time that admitted requests waited for a place, of those that had to wait.",
            buckets=WAIT_BUCKETS,
            registry=None,
        )
        self.first_byte_seconds = TallyHistogram(
            "extproc_response_headers_seconds",
            "Time from the decision to the worker's response headers.",
            buckets=FIRST_BYTE_BUCKETS,
            registry=None,
        )
        self.prompt_tokens_matched = Counter(
            "extproc_prefix_tokens",
            "Tokens of routed prompts: `matched` by the prefix index at the chosen worker, or `unmatched`.",
            ["policy", "result"],
            registry=None,
        )
        self.cached_tokens = Counter(
            "extproc_cached_tokens",
            "Prompt tokens in the caches of workers, over answers that were compared: `predicted`, or `reported`.",
            ["worker", "policy", "kind"],
            registry=None,
        )
        self.cached_tokens_samples = Counter(
            "extproc_cached_tokens_samples",
            "Answers read to compare predicted with reported cached tokens: as many blocks (`equal`), more predicted "
            "(`over`), fewer (`under`), none reported (`absent`), served by another worker (`moved`).",
            ["worker", "policy", "result"],
            registry=None,
        )
        self.recorded_requests = Counter(
            "extproc_recorded_requests",
            "Requests of recordings: `written`, or left out because of a limit or fault.",
            ["result"],
            registry=None,
        )

    def _make_processes(self) -> None:
        self.streams = Counter(
            "extproc_streams",
            "ext_proc streams by how they ended: `clean`, `reset` (before a decision), `error` (not understood).",
            ["end"],
            registry=None,
        )
        self.connections_closed = Counter(
            "extproc_connections_closed",
            "Connections on the gRPC port that this service closed, by reason.",
            ["reason"],
            registry=None,
        )
        self.reloads = Counter(
            "extproc_configuration_reloads", "Readings of a changed configuration file.", ["result"], registry=None
        )
        self.tls_reloads = Counter(
            "extproc_tls_reloads", "Readings of changed certificate files, by each router.", ["result"], registry=None
        )
        self.probes = Counter(
            "extproc_health_probes",
            "Health probes; one of a server counts for each of its ranks.",
            ["worker", "result"],
            registry=None,
        )
        self.load_scrapes = Counter(
            "extproc_load_scrapes",
            "Readings of the load of a worker's engine; one of a server counts for each of its ranks.",
            ["worker", "result"],
            registry=None,
        )
        self.restarts = Counter(
            "extproc_process_restarts", "Processes replaced, by role and cause.", ["role", "cause"], registry=None
        )


class TokenMetrics:
    """The metrics of one process about prompts and their tokens."""

    def __init__(self) -> None:
        self.model_loads = Counter(
            "extproc_model_loads",
            "Models loaded by a process, by the encoder chosen and, where that is not the fast one, why.",
            ["model", "encoder", "reason"],
            registry=None,
        )
        self.token_lookups = Counter(
            "extproc_token_cache_lookups",
            "Prompts looked up in the token cache: level 0 is the whole prompt, level 1 its longest known prefix.",
            ["model", "level", "result"],
            registry=None,
        )
        self.prompt_bytes = Counter(
            "extproc_prompt_bytes",
            "Text of prompts, in bytes: encoded, or reused from the token cache.",
            ["model", "origin"],
            registry=None,
        )
        self.prompt_tokens = Counter(
            "extproc_prompt_tokens",
            "Tokens of prompts: encoded, or reused from the token cache.",
            ["model", "origin"],
            registry=None,
        )
        self.prefix_verifications = Counter(
            "extproc_prefix_verifications",
            "Prompts put together from a known prefix that were encoded as a whole too, and compared.",
            ["model", "result"],
            registry=None,
        )
        self.prefixes_off = Counter(
            "extproc_prefixes_off",
            "Models whose known prefixes a process does not use, by reason.",
            ["model", "reason"],
            registry=None,
        )
        self.tokenize_seconds = TallyHistogram(
            "extproc_tokenize_seconds",
            "Time from a parsed request to its token ids and block hashes, waiting for a thread included.",
            buckets=TOKENIZE_BUCKETS,
            registry=None,
        )


class KvEventMetrics:
    """The metrics of one process about the KV-cache events of engines."""

    def __init__(self) -> None:
        self.batches = Counter(
            "extproc_kv_event_batches",
            "Batches of KV-cache events: handed on in order (`batches`), had from a replay (`replayed`), known to be "
            "missing (`lost`), given away because too many waited (`dropped`), seen before (`duplicates`).",
            ["worker", "result"],
            registry=None,
        )
        self.problems = Counter(
            "extproc_kv_event_problems", "Why a worker's events could not be followed.", ["worker", "problem"],
            registry=None,
        )  # fmt: skip
        self.mended = Counter(
            "extproc_kv_blocks_mended",
            "Blocks that the prefix index had lost though the engine holds them. Many: it is too small.",
            ["worker"],
            registry=None,
        )
        self.lag_seconds = TallyHistogram(
            "extproc_kv_event_lag_seconds",
            "Time from a batch's own time to its reading; of workers on other machines by their clocks.",
            buckets=LAG_BUCKETS,
            registry=None,
        )


class DiscoveryMetrics:
    """The metrics of one process about where its workers come from."""

    def __init__(self) -> None:
        self.reports = Counter(
            "extproc_discovery_reports", "Lists of workers taken over from a source.", ["source"], registry=None
        )
        self.faults = Counter(
            "extproc_discovery_faults",
            "Faults of a source, or workers of its that could not be taken over, by reason.",
            ["source", "reason"],
            registry=None,
        )
        self.dns_lookups = Counter(
            "extproc_discovery_dns_lookups", "Questions to DNS servers, by result.", ["source", "result"], registry=None
        )


def use_process_slot(slot: int) -> None:
    """Name this process's metric files by its slot instead of its pid.

    A successor in the same slot goes on with the same files, so their number stays bounded however often processes are
    replaced. Call before the first metric is made.

    The files get their disk space here: it is mapped into memory, where a disk that is full later would kill whoever
    counts something (SIGBUS), the supervisor included. Raises ``OSError`` when there is none.
    """
    directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    for kind in ("counter", "histogram") if directory else ():
        with Path(str(directory), f"{kind}_{slot}.db").open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, METRIC_FILE_BYTES)
    values.ValueClass = values.MultiProcessValue(process_identifier=lambda: slot)  # type: ignore[no-untyped-call]
