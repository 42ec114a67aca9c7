"""Where the sockets of an engine's events are, from the words of its configuration.

vLLM binds an endpoint with ``*``, with ``::``, or that is no network address at all, and connects to every other one;
the endpoint of replays it always binds.
"""

import ipaddress
import re
from typing import NamedTuple

_ANY_HOST = re.compile(r"tcp://(?:\*|0\.0\.0\.0|\[::\]|::):")
_HOST = re.compile(r"tcp://(.*):[^:]*$")
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


def fault_of_told(endpoint: str, *, host: str, replays: bool) -> str:
    """Return why an endpoint that an engine on ``host`` tells is not used, or nothing: so far is it taken at its word.

    Else whoever is a worker could have sockets bound and connected wherever it likes. What is configured is not asked.
    """
    place = Place(replay_address(endpoint, host=host), bind=False) if replays else events_place(endpoint, host=host)
    found = _HOST.match(place.address)
    if found is None:
        return ""
    named = found[1].strip("[]")
    if place.bind:
        return "" if _loopback(named) else f"{endpoint} is bound only where kv_events.endpoint says so"
    same = named == host or (_loopback(named) and _loopback(host))
    return "" if same else f"{endpoint} is not on the worker's own host, {host}"


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
