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
    response_headers: bool = setting(
        True,  # noqa: FBT003
        "Show the response headers to the service: it returns prefill credit, learns who served and notices failures "
        "by it.",
    )
    connect_timeout_secs: float = setting(1.0, "Time to connect to a worker.", unit="seconds", low=0.05)
    lost_after_secs: float = setting(
        10.0,
        "Connections to a machine that acknowledges nothing for this long are broken, and requests on them without an "
        "answer go to another worker. A busy or hung worker is not lost: its kernel acknowledges. 0: left to the "
        "kernel, which waits for 15 minutes or for ever.",
        unit="seconds",
        low=0,
        high=3600,
    )
    hung_after_secs: float = setting(
        0.0,
        "A worker that has not begun its answer after this long is given up and the request goes to another; 0: never. "
        "An answer that is not streamed begins when it is complete, so this must lie above the longest. A router may "
        "set another time for one request.",
        unit="seconds",
        low=0,
    )
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
    retries: int = setting(
        5,
        "Attempts after the first, each on another worker: on connect failure, a reset or a lapse of `hung_after_secs` "
        "before the answer begins, 502 and 503. With half of eight workers dead a request can meet four of them.",
        low=0,
        high=32,
    )
