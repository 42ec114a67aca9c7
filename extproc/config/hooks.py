"""Request hooks: plugins that look at every request before it is routed."""

import dataclasses
from typing import Literal

from extproc.config.setting import setting


@dataclasses.dataclass(frozen=True, slots=True)
class HookSettings:
    """Which hooks run, in order, and what becomes of a request when one of them fails."""

    enabled: tuple[str, ...] = setting((), "Names of entry points of the group `extproc.hooks`, in order.")
    time_budget_secs: float = setting(
        0.01,
        "What one hook may take for one request; the result of one that takes longer is not used, and it is counted.",
        unit="seconds",
        low=0.0001,
        high=60,
    )
    on_error: Literal["skip", "refuse"] = setting(
        "skip",
        "A hook that raises or takes too long: `skip` goes on without it, `refuse` answers 500. Counted either way.",
    )
