"""Where the sockets of an engine's events are, from the words of its configuration.

vLLM binds an endpoint with ``*``, with ``::``, or that is no network address at all, and connects to every other one;
the endpoint of replays it always binds.
"""

import ipaddress
import re
from typing import NamedTuple

_ANY_HOST = re.compile(r"tcp://(?:\*|0\.0\.0\.0|\[::\]|::):")
_PORT = re.compile(r":([0-9]{1,5})$")
_LAST_PORT = 0xFFFF


class Place(NamedTuple):
    """An address for a socket of ours, which binds it with ``bind`` and connects to it otherwise."""

    address: str
    bind: bool


def events_place(endpoint: str, *, host: str) -> Place:
    """Return where the events of an engine on ``host`` are had.

    Raises ``ValueError`` for an endpoint that cannot be reached from here.
    """
    if "*" in endpoint or "::" in endpoint or not endpoint.startswith("tcp:"):
        return Place(replay_address(endpoint, host=host), bind=False)
    return Place(endpoint, bind=True)


def replay_address(endpoint: str, *, host: str) -> str:
    """Return where replays are asked for. Raises ``ValueError`` as for events."""
    if endpoint.startswith("ipc://"):
        if not _loopback(host):
            raise ValueError(f"{endpoint} is on another machine, {host}")
        return endpoint
    if not endpoint.startswith("tcp://"):
        raise ValueError(f"{endpoint} is neither tcp:// nor ipc://")
    shown = f"[{host}]" if ":" in host else host
    return _ANY_HOST.sub(f"tcp://{shown}:", endpoint)


def with_rank(endpoint: str, rank: int) -> str:
    """Return the endpoint of a data parallel rank, which adds its number to the port.

    One without a port, or whose port would be none, is returned as it is.
    """
    found = _PORT.search(endpoint) if endpoint.startswith("tcp:") else None
    if found is None or not rank or int(found[1]) + rank > _LAST_PORT:
        return endpoint
    return f"{endpoint[: found.start()]}:{int(found[1]) + rank}"


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
