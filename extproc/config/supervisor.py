"""Processes: how many, where they keep their files, when one is replaced."""

import dataclasses

from extproc.config.setting import setting


@dataclasses.dataclass(frozen=True, slots=True)
class SupervisorSettings:
    """Settings of the process that starts, watches and replaces the others."""

    routers: int = setting(0, "Router processes. 0: one per core.", unit="processes", low=0, high=32)
    run_dir: str = setting(
        "/tmp/extproc",  # noqa: S108 - a default an operator sees and changes; made 0755 and checked for its owner
        "Directory for sockets, the endpoint file that Envoy watches, and metric files.",
    )
    heartbeat_interval_secs: float = setting(
        0.25, "How often a process's event loop writes its heartbeat.", unit="seconds", low=0.01, high=60
    )
    heartbeat_timeout_secs: float = setting(
        10.0, "A process whose heartbeat is older is killed and replaced.", unit="seconds", low=0.1, high=600
    )
    start_timeout_secs: float = setting(
        30.0, "A process that is not ready by then is killed.", unit="seconds", low=0.5, high=600
    )
    restart_backoff_secs: float = setting(
        0.1, "Wait before replacing a dead process; doubled for each death in a row.", unit="seconds", low=0, high=60
    )
    restart_backoff_max_secs: float = setting(5.0, "Longest such wait.", unit="seconds", low=0, high=600)
