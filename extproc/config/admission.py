"""Admission: how much is let in at once, and how long the rest may wait."""

import dataclasses
from typing import Literal, get_args

from extproc.config.setting import setting

Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[str, ...] = get_args(Priority)
"""The most important first."""


@dataclasses.dataclass(frozen=True, slots=True)
class AdmissionSettings:
    """Limits over all models together; a model may have its own (`models[].max_requests`, `models[].max_tokens`)."""

    max_requests: int = setting(
        0, "Requests in flight over all routers; 0: no limit.", unit="requests", low=0, high=10_000_000
    )
    max_tokens: int = setting(
        0,
        "Tokens in flight over all routers: prompts, estimated from their bytes, and the answers that requests allow; "
        "0: no limit.",
        unit="tokens",
        low=0,
        high=1 << 50,
    )
    max_queued: int = setting(
        256,
        "Requests that wait in one router while a limit is reached; a further one is answered 429, or takes the place "
        "of one of lower priority. 0: nobody waits.",
        unit="requests",
        low=0,
        high=10_000,
    )
    max_wait_secs: float = setting(
        2.0,
        "A request that has waited for so long is answered 503. Envoy must outwait it: see "
        "`envoy.message_timeout_secs`.",
        unit="seconds",
        low=0.01,
        high=600,
    )
    default_priority: Literal["high", "normal", "low"] = setting(
        "normal",
        "Class of a request without the header `x-extproc-priority`, which has the same values. Whoever has a higher "
        "one waits shorter.",
    )
