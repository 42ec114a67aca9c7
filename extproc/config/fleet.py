"""The fleet: the workers, how their health and their load are read, how they leave."""

import dataclasses

from extproc.config.setting import setting


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One entry of the `workers` list."""

    address: str = setting("", "`IP:PORT` of the vLLM server, as Envoy reaches it. Required.")
    id: str = setting("", "Name in logs, metrics and decisions; unique. Empty: the address.")
    models: tuple[str, ...] = setting((), "Models it serves. Empty: any model, and the request's `model` is not read.")
    draining: bool = setting(False, "No new requests; those in flight are finished.")  # noqa: FBT003
    data_parallel_size: int = setting(
        1,
        "Data parallel ranks of the server, as vLLM's option of that name. Each is a worker `ID/RANK` that is chosen "
        "by itself; the request's `X-data-parallel-rank` says which.",
        unit="ranks",
        low=1,
        high=64,
    )
    kv_events_endpoint: str = setting("", "As `kv_events.endpoint`, for this worker.")
    kv_events_replay_endpoint: str = setting("", "As `kv_events.replay_endpoint`, for this worker.")
    kv_events_topic: str = setting("", "As `kv_events.topic`, for this worker.")

    @property
    def name(self) -> str:
        """What the server is called: its id, or its address where it has none."""
        return self.id or self.address

    @property
    def rank_ids(self) -> tuple[str, ...]:
        """The ids of the workers that it is, by rank: its name, where there is only one."""
        if self.data_parallel_size == 1:
            return (self.name,)
        return tuple([f"{self.name}/{rank}" for rank in range(self.data_parallel_size)])


@dataclasses.dataclass(frozen=True, slots=True)
class FleetSettings:
    """Settings of health probes, of the reading of loads, of breakers, and of workers that leave."""

    reload_interval_secs: float = setting(
        0.5,
        "How often the configuration file (its `workers` and `models`) and `discovery.file` are checked for a change.",
        unit="seconds",
        low=0.05,
    )
    health_path: str = setting("/health", "Path of the health probe; any 2xx answer is healthy.")
    health_interval_secs: float = setting(1.0, "Time between two probes of a worker.", unit="seconds", low=0.05)
    health_timeout_secs: float = setting(0.6, "A probe that takes longer has failed.", unit="seconds", low=0.05)
    unhealthy_threshold: int = setting(2, "Failed probes in a row that take a worker out.", unit="probes", low=1)
    healthy_threshold: int = setting(1, "Good probes in a row that bring it back.", unit="probes", low=1)
    load_path: str = setting("/metrics", "Path of a worker's metrics, from which the load of its engine is read.")
    load_interval_secs: float = setting(
        1.0,
        "Time between two readings of a worker's load; 0: loads are not read. One costs vLLM 5 to 9 ms of CPU.",
        unit="seconds",
        low=0,
    )
    load_timeout_secs: float = setting(2.0, "A reading that takes longer has failed.", unit="seconds", low=0.05)
    load_stale_secs: float = setting(5.0, "A load that was read longer ago is not used.", unit="seconds", low=0.1)
    drain_timeout_secs: float = setting(
        600.0,
        "A removed worker stays known to Envoy until its requests are finished, at most this long.",
        unit="seconds",
        low=0,
    )
    hung_after_secs: float = setting(
        10.0,
        "A worker that has not sent response headers by then, and by four times what the request should take, counts "
        "as hung: the data plane tries the next one. Only for requests whose body is read and tells how long the "
        "answer may be, or that it is streamed; for all others see `envoy.hung_after_secs`. 0: off.",
        unit="seconds",
        low=0,
        high=3600,
    )
    breaker_failures: int = setting(
        3,
        "Failures in a row (no connection, reset before an answer, 5xx) that open a worker's breaker: it gets no "
        "request. 0: never.",
        unit="failures",
        low=0,
        high=1000,
    )
    breaker_open_secs: float = setting(
        1.0,
        "How long a breaker stays open before one request is sent to try the worker; doubles each time that fails.",
        unit="seconds",
        low=0.05,
        high=3600,
    )
    breaker_max_open_secs: float = setting(
        30.0, "The longest that a breaker stays open before the next try.", unit="seconds", low=0.05, high=3600
    )
    breaker_probe_secs: float = setting(
        60.0,
        "A request that tries a worker and of which nothing is heard for so long makes way for another.",
        unit="seconds",
        low=0.1,
        high=3600,
    )
