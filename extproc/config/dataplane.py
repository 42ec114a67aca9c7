"""What `extproc envoy-config` writes for a standalone Envoy."""

import dataclasses

from extproc.config.setting import setting


@dataclasses.dataclass(frozen=True, slots=True)
class EnvoySettings:
    """Settings of the generated Envoy bootstrap and of its endpoint file."""

    listen_address: str = setting("127.0.0.1:8080", "`HOST:PORT` on which Envoy takes requests.")
    admin_address: str = setting("127.0.0.1:9901", "`HOST:PORT` of Envoy's own admin interface.")
    eds_file: str = setting("{run_dir}/eds.json", "Endpoint file that the observer writes and Envoy watches.")
    message_timeout_secs: float = setting(
        10.0,
        "Time Envoy waits for one of our replies; must lie well above `server.decision_timeout_secs`.",
        unit="seconds",
        low=0.1,
    )
    fail_open: bool = setting(
        True,  # noqa: FBT003
        "Without an answer from us Envoy balances the request by itself (least request); else it answers 500.",
    )
    connect_timeout_secs: float = setting(1.0, "Time to connect to a worker.", unit="seconds", low=0.05)
    upstream_idle_timeout_secs: float = setting(
        4.0,
        "Idle connections to workers are closed after this; must lie below the worker's own keep-alive (vLLM: 5 s).",
        unit="seconds",
        low=0.1,
    )
    stream_idle_timeout_secs: float = setting(
        3600.0, "A request without a byte either way for this long is ended.", unit="seconds", low=1
    )
    forwarded_headers: tuple[str, ...] = setting(
        ("content-length", "x-extproc-*", "x-smg-*", "x-gateway-*", "x-llm-d-*"),
        "Request headers that Envoy shows to the service beside `:method` and `:path`; a `*` at the end stands for any "
        "rest. Fewer are cheaper, and credentials stay with Envoy.",
    )
    retries: int = setting(3, "Attempts after the first, on connect failure, reset or 503.", low=0, high=10)
