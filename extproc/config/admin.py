"""The admin port."""

import dataclasses

from extproc.config.setting import setting


@dataclasses.dataclass(frozen=True, slots=True)
class AdminSettings:
    """Settings of the observer's HTTP server: metrics, health, state."""

    address: str = setting("127.0.0.1:9090", "`HOST:PORT` of the admin server.")
