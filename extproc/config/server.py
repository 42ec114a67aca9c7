"""The ext_proc server: where a router listens, how much it accepts, how it stops."""

import dataclasses
from typing import Literal

from extproc.config.setting import setting

MIB = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class ServerSettings:
    """Settings of the gRPC server that every router process runs."""

    transport: Literal["native", "grpcio"] = setting(
        "native", "HTTP/2 implementation: `native` (asyncio and ngh2) or `grpcio` (grpc.aio, several times the CPU)."
    )
    router_address: str = setting(
        "unix:{run_dir}/router-{index}.sock",
        "Each router's own endpoint, listed one by one in the Envoy configuration: `unix:PATH` with `{run_dir}` and "
        "`{index}` filled in, or `HOST:PORT`, where router N listens on PORT + N.",
    )
    shared_address: str = setting(
        "",
        "`HOST:PORT` that all routers share, for a data plane that sees one port only (a Service, an InferencePool). "
        "Empty: off.",
    )
    rotate_after_streams: int = setting(
        100,
        "On the shared address, a connection is retired gracefully after this many streams, so that the data plane's "
        "next one reaches another router. 0: never.",
        unit="streams",
        low=0,
    )
    tls: Literal["off", "self_signed", "files"] = setting(
        "off",
        "TLS on TCP endpoints; unix sockets are always plaintext. `self_signed` makes a certificate at start, which "
        "gateways that do not verify it accept; `files` reads the two below and reloads them when they change.",
    )
    tls_certificate_file: str = setting("", "PEM certificate chain, for `tls: files`.")
    tls_private_key_file: str = setting("", "PEM private key, for `tls: files`.")
    tls_reload_interval_secs: float = setting(
        10.0, "How often the certificate files are checked for a change.", unit="seconds", low=0.05, high=86400
    )
    streams_last: bool = setting(
        True,  # noqa: FBT003
        "The data plane keeps its ext_proc streams open until the answer ends, as it does with `response_trailer_mode: "
        "SEND` (the generated configuration with `envoy.fail_open`, Istio) or when it buffers bodies. `false`: it may "
        "end them earlier; such requests count as in flight for their expected time, or until the engine has none.",
    )
    max_body_bytes: int = setting(
        32 * MIB, "Largest request body; a larger one is answered 413.", unit="bytes", low=1024, high=1024 * MIB
    )
    max_message_bytes: int = setting(
        33 * MIB,
        "Largest gRPC message. Must leave room for `max_body_bytes` and the headers beside it.",
        unit="bytes",
        low=4096,
        high=1100 * MIB,
    )
    max_held_bytes: int = setting(
        1024 * MIB,
        "Bytes of request bodies that one router holds at once: messages half received, and bodies half received in "
        "pieces. A request that would need more is answered 429; in a message, its stream is ended with "
        "RESOURCE_EXHAUSTED, and Envoy balances it by itself or answers 500, as `envoy.fail_open` says.",
        unit="bytes",
        low=1024,
        high=1 << 40,
    )
    max_connections: int = setting(
        1024, "Connections one router holds; a further one is closed at once and counted.", low=1, high=100_000
    )
    max_streams_per_connection: int = setting(
        10_000, "SETTINGS_MAX_CONCURRENT_STREAMS of a connection.", unit="streams", low=1, high=1_000_000
    )
    max_streams: int = setting(
        20_000,
        "Streams one router serves at once; a further request is answered 429 with `retry-after`.",
        unit="streams",
        low=1,
        high=1_000_000,
    )
    handshake_timeout_secs: float = setting(
        5.0,
        "A connection that has not finished TLS and the HTTP/2 preface by then is closed.",
        unit="seconds",
        low=0.05,
    )
    keepalive_time_secs: float = setting(
        30.0, "A connection silent for this long is sent a PING.", unit="seconds", low=0.05
    )
    keepalive_timeout_secs: float = setting(
        10.0, "A PING unanswered for this long closes the connection.", unit="seconds", low=0.05
    )
    max_pings: int = setting(100, "PINGs a peer may send in any 10 s; more close the connection.", unit="pings", low=1)
    max_idle_resets: int = setting(
        1000,
        "Streams a peer may cancel before their first message in any 10 s; more close the connection. Envoy cancels "
        "finished streams as a matter of course; those do not count.",
        unit="resets",
        low=1,
    )
    decision_timeout_secs: float = setting(
        2.0, "A decision that takes longer is answered 503.", unit="seconds", low=0.01, high=600
    )
    drain_linger_secs: float = setting(
        3.0,
        "After SIGTERM a router listens on for at least this long, though nothing is left to serve, so that every data "
        "plane has seen NOT_SERVING. Counts towards the drain timeout.",
        unit="seconds",
        low=0,
        high=3600,
    )
    drain_timeout_secs: float = setting(
        30.0,
        "After SIGTERM a router reports NOT_SERVING and goes on serving for at most this long, then ends what is left "
        "cleanly: Envoy goes on with requests that are already routed.",
        unit="seconds",
        low=0,
        high=3600,
    )
