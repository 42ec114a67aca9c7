"""Policies: which one chooses, and what it returns."""

import dataclasses
from typing import Literal

from extproc.config.setting import setting


@dataclasses.dataclass(frozen=True, slots=True)
class RoutingSettings:
    """Settings of the choice and of how it is told to the data plane."""

    policy: str = setting("round_robin", "Name of the load-balancing policy.")
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
        "Add `x-extproc-decision` (worker, policy, reason) to responses. Needs the response headers phase.",
    )
