"""The fleet: the workers, how their health is probed, how they leave."""

import dataclasses

from extproc.config.setting import setting


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One entry of the `workers` list."""

    address: str = setting("", "`IP:PORT` of the vLLM server, as Envoy reaches it. Required.")
    id: str = setting("", "Name in logs, metrics and decisions; unique. Empty: the address.")
    models: tuple[str, ...] = setting((), "Models it serves. Empty: any model, and the request's `model` is not read.")
    draining: bool = setting(False, "No new requests; those in flight are finished.")  # noqa: FBT003


@dataclasses.dataclass(frozen=True, slots=True)
class FleetSettings:
    """Settings of health probes, of workers that leave, and of how files are followed."""

    reload_interval_secs: float = setting(
        0.5,
        "How often the configuration file (its `workers` and `models`) and `discovery.file` are checked for a change.",
        unit="seconds",
        low=0.05,
    )
    health_path: str = setting("/health", "Path of the health probe; any 2xx answer is healthy.")
    health_interval_secs: float = setting(1.0, "Time between two probes of a worker.", unit="seconds", low=0.05)
    health_timeout_secs: float = setting(1.0, "A probe that takes longer has failed.", unit="seconds", low=0.05)
    unhealthy_threshold: int = setting(2, "Failed probes in a row that take a worker out.", unit="probes", low=1)
    healthy_threshold: int = setting(1, "Good probes in a row that bring it back.", unit="probes", low=1)
    drain_timeout_secs: float = setting(
        600.0,
        "A removed worker stays known to Envoy until its requests are finished, at most this long.",
        unit="seconds",
        low=0,
    )
