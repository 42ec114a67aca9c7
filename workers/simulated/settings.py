"""Settings of simulated workers, declared once: flags, bounds and the README's table are derived from these."""

import dataclasses
from importlib.util import find_spec
from typing import Any

from workers.engine.profile import Profile, ProfileError, load_profile
from workers.simulated.faults import MAX_FAIL_NEXT, Behaviour, Mode

MIB = 1 << 20
MAX_ANSWER_TOKENS = 100_000
MAX_TTFT_SECS = 3600.0
MAX_TOKEN_SECS = 60.0
MAX_WORKERS = 256
MAX_RANKS = 64
MAX_PORT = 65535
NUMBER = "{n}"
"""Stands for a worker's number in texts that differ by worker."""
MAX_NUM_SEQS = 4096
BLOCK_SIZE = 16
KV_CACHE_TOKENS = 1 << 24


@dataclasses.dataclass(frozen=True, slots=True)
class Declaration:
    """Help and inclusive bounds of a setting; ``flag`` names it where the field's own name does not.

    ``modelled`` says that it means something with a profile only (True), without one only (False), or always (None).
    ``unset`` is what the README shows for a default of None.
    """

    help: str
    low: float | None = None
    high: float | None = None
    flag: str = ""
    modelled: bool | None = None
    unset: str = ""


def _setting(
    default: object,
    help: str,  # noqa: A002 - the word that argparse uses for it
    *,
    low: float | None = None,
    high: float | None = None,
    flag: str = "",
    modelled: bool | None = None,
    unset: str = "",
) -> Any:  # noqa: ANN401 - stands in for a field of any type, as dataclasses.field does
    declaration = Declaration(help=help, low=low, high=high, flag=flag, modelled=modelled, unset=unset)
    return dataclasses.field(default=default, metadata={"setting": declaration})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set when a worker starts."""

    host: str = _setting("127.0.0.1", "Address to listen on.")
    port: int = _setting(
        8000, "Port to listen on; 0 picks a free one, which the ready line names.", low=0, high=MAX_PORT
    )
    name: str = _setting(
        "",
        "Name in `x-worker` and `system_fingerprint`, with `{n}` for the number where there are several workers. "
        "Empty: `HOST:PORT`.",
    )
    workers: int = _setting(
        1,
        "Workers in this process, numbered from 0 and on as many ports from `--port` on. Each has everything of its "
        "own.",
        low=1,
        high=MAX_WORKERS,
    )
    models: tuple[str, ...] = _setting(
        ("tiny",), "A model it serves; repeatable. Metrics carry the first, as vLLM's do.", flag="model"
    )
    ttft_secs: float = _setting(
        0.02,
        "Time to first token; a request's `x-sim-ttft-secs` wins. Without `--profile` only.",
        low=0,
        high=MAX_TTFT_SECS,
        modelled=False,
    )
    token_secs: float = _setting(
        0.002,
        "Time of each further token; a request's `x-sim-token-secs` wins. Without `--profile` only.",
        low=0,
        high=MAX_TOKEN_SECS,
        modelled=False,
    )
    max_tokens: int = _setting(
        16, "Length of an answer that neither the request nor `x-sim-tokens` limits.", low=1, high=MAX_ANSWER_TOKENS
    )
    max_model_len: int = _setting(
        1 << 25, "A prompt and its answer together may have this many tokens; a longer request is answered 400.", low=1
    )
    profile: str = _setting(
        "",
        "Follow the model of an engine: a profile's name or a `.yaml` file. Empty: the scripted times above, and "
        "nothing costs anything.",
    )
    max_num_seqs: int | None = _setting(
        None,
        "Requests that run at once; further ones wait, and are counted as waiting.",
        low=1,
        high=1_000_000,
        unset=f"`{MAX_NUM_SEQS}`, or the profile's",
    )
    block_size: int | None = _setting(
        None, "Tokens in one block of the key-value cache.", low=1, high=4096, unset=f"`{BLOCK_SIZE}`, or the profile's"
    )
    kv_cache_tokens: int | None = _setting(
        None, "Room of the key-value cache, in tokens.", low=1, unset=f"`{KV_CACHE_TOKENS}`, or the profile's"
    )
    max_num_batched_tokens: int | None = _setting(
        None, "Tokens that one step computes at most.", low=1, modelled=True, unset="the profile's"
    )
    loras: tuple[str, ...] = _setting((), "An adapter of the first model, served by its name; repeatable.", flag="lora")
    max_loras: int | None = _setting(
        None, "Adapters in one batch at most.", low=1, modelled=True, unset="the profile's"
    )
    data_parallel_size: int = _setting(
        1,
        "Engines behind the port of each worker, with everything but the API server of their own. A request's "
        "`X-data-parallel-rank` says which, else it goes to one with the fewest requests.",
        low=1,
        high=MAX_RANKS,
        modelled=True,
    )
    device_share: bool = _setting(
        False,  # noqa: FBT003
        "The workers of this process, and their ranks, share one GPU by time slices, as several engines on one do.",
        modelled=True,
    )
    stream_interval_secs: float = _setting(
        0.02,
        "A stream is written to at most this often after its first token; each write has all tokens that are due.",
        low=0.001,
        high=10,
        modelled=True,
    )
    kv_events_endpoint: str = _setting(
        "",
        "ZMQ endpoint for KV-cache events. Bound if it has `*`, `::`, `ipc:` or `inproc:`, else connected to. With "
        "several workers `{n}` is the worker's number; without it, it is added to a TCP port. With several ranks each "
        "has the next port. Empty: no events.",
        modelled=True,
    )
    kv_events_replay_endpoint: str = _setting(
        "", "ZMQ endpoint that replays them; always bound. Numbered likewise. Empty: no replay.", modelled=True
    )
    kv_events_topic: str = _setting("", "Topic of the events; `{n}` is the worker's number.", modelled=True)
    kv_events_buffer_steps: int = _setting(
        10_000, "Batches of events that can be replayed.", low=1, high=1_000_000, modelled=True
    )
    kv_events_hwm: int = _setting(
        100_000, "Batches that may wait for a slow subscriber; further ones are dropped.", low=1, modelled=True
    )
    keep_alive_secs: float = _setting(
        5.0, "A connection idle for this long is closed, as vLLM's HTTP server does.", low=0.05, high=86_400
    )
    drain_secs: float = _setting(
        1.0, "On SIGTERM, requests in flight get this long to end; then their connections are closed.", low=0, high=3600
    )
    max_body_bytes: int = _setting(
        128 * MIB, "Largest request body; a larger one is answered 413.", low=1024, high=1024 * MIB
    )
    remember_requests: int = _setting(100, "Requests that `GET /sim/requests` can show.", low=0, high=10_000)
    mode: Mode = _setting(  # noqa: RUF009 - the declaration is as immutable as that of its neighbours
        "ok", "How it misbehaves from the start; see `POST /sim/behaviour`."
    )
    error_status: int = _setting(500, "Status of deliberate errors.", low=500, high=599)
    fail_next: int = _setting(
        0, "The next requests, this many, are answered `error-status`.", low=0, high=MAX_FAIL_NEXT
    )
    unhealthy: bool = _setting(False, "`GET /health` answers 503 while requests are served.")  # noqa: FBT003
    stall_after_tokens: int = _setting(
        -1, "An answer stops coming after this many tokens, until told otherwise; -1: never.", low=-1
    )

    @property
    def behaviour(self) -> Behaviour:
        """How the worker behaves until it is told otherwise."""
        return Behaviour(
            mode=self.mode,
            error_status=self.error_status,
            fail_next=self.fail_next,
            unhealthy=self.unhealthy,
            stall_after_tokens=self.stall_after_tokens,
        )

    @property
    def num_gpu_blocks(self) -> int:
        """Blocks of the key-value cache where no profile says so."""
        return (self.kv_cache_tokens or KV_CACHE_TOKENS) // (self.block_size or BLOCK_SIZE)

    def load_profile(self) -> Profile | None:
        """Read the profile and put in the flags that replace its fields; None without one. Raises ``ProfileError``."""
        if not self.profile:
            return None
        names = ("max_num_seqs", "block_size", "kv_cache_tokens", "max_num_batched_tokens", "max_loras")
        changes = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return load_profile(self.profile, **changes)

    def faults(self) -> list[str]:
        """Say what cannot be used, although each value is within its own bounds."""
        faults = []
        try:
            self.load_profile()
        except ProfileError as error:
            faults.append(f"--profile {error}")
        if not self.profile and self.num_gpu_blocks < 1:
            faults.append("--kv-cache-tokens must be at least --block-size")
        if set(self.loras) & set(self.models):
            faults.append("--lora and --model must differ")
        if self.port and self.port + self.workers - 1 > MAX_PORT:
            faults.append(f"--port and --workers: there is no port {self.port + self.workers - 1}")
        if self.kv_events_endpoint and find_spec("zmq") is None:
            faults.append("--kv-events-endpoint needs pyzmq")
        if self.kv_events_replay_endpoint and not self.kv_events_endpoint:
            faults.append("--kv-events-replay-endpoint needs --kv-events-endpoint")
        for flag, endpoint in (
            ("--kv-events-endpoint", self.kv_events_endpoint),
            ("--kv-events-replay-endpoint", self.kv_events_replay_endpoint),
        ):
            if self.workers > 1 and endpoint and NUMBER not in endpoint and not _has_tcp_port(endpoint):
                faults.append(f"{flag} needs {NUMBER} for several workers")
            if self.data_parallel_size > 1 and endpoint and not _has_tcp_port(endpoint.replace(NUMBER, "0")):
                faults.append(f"{flag} needs a TCP port for several ranks")
        return faults

    def of_worker(self, number: int) -> "Settings":
        """Return the settings of one of the workers."""
        text = str(number)
        name = self.name if NUMBER in self.name or not self.name or self.workers == 1 else f"{self.name}-{NUMBER}"
        return dataclasses.replace(
            self,
            name=name.replace(NUMBER, text),
            port=self.port + number if self.port else 0,
            kv_events_endpoint=self._endpoint_of(self.kv_events_endpoint, number),
            kv_events_replay_endpoint=self._endpoint_of(self.kv_events_replay_endpoint, number),
            kv_events_topic=self.kv_events_topic.replace(NUMBER, text),
        )

    def _endpoint_of(self, endpoint: str, number: int) -> str:
        if NUMBER in endpoint:
            return endpoint.replace(NUMBER, str(number))
        return numbered(endpoint, number * self.data_parallel_size)


def numbered(endpoint: str, number: int) -> str:
    """Return an endpoint with a number added to its port, where it has one."""
    head, _, port = endpoint.rpartition(":")
    return f"{head}:{int(port) + number}" if port.isdigit() and int(port) else endpoint


def _has_tcp_port(endpoint: str) -> bool:
    """Whether the port can be told apart by number: it is one, or left to the system."""
    port = endpoint.rpartition(":")[2]
    return endpoint.startswith("tcp:") and (port == "*" or port.isdigit())
