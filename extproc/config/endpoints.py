"""What the settings mean once their placeholders are filled in: how many routers, where each listens, which files.

Paths may hold ``{run_dir}`` and ``{index}``; they are replaced as text, never with :meth:`str.format`, which would let
a configuration file reach into our objects.
"""

import os

from extproc.config.settings import Settings

UNIX = "unix:"


def router_count(settings: Settings) -> int:
    """Return how many router processes to run; configured as zero it is one for every core this process may use."""
    return settings.supervisor.routers or len(os.sched_getaffinity(0))


def router_address(settings: Settings, index: int) -> str:
    """Return the own endpoint of router ``index``: ``unix:PATH``, or the configured ``HOST:PORT`` plus the index.

    ``server.router_address`` must have passed the checks; else the result is meaningless or ``ValueError`` is raised.
    """
    template = settings.server.router_address
    if template.startswith(UNIX):
        return fill(template, run_dir=settings.supervisor.run_dir).replace("{index}", str(index))
    host, _, port = template.rpartition(":")
    return f"{host}:{int(port) + index}"


def router_addresses(settings: Settings) -> tuple[str, ...]:
    """Return the own endpoint of every router, in order."""
    return tuple(router_address(settings, index) for index in range(router_count(settings)))


def eds_file(settings: Settings) -> str:
    """Return the path of the endpoint file that the observer writes and Envoy watches."""
    return fill(settings.envoy.eds_file, run_dir=settings.supervisor.run_dir)


def fill(template: str, *, run_dir: str) -> str:
    """Replace ``{run_dir}``."""
    return template.replace("{run_dir}", run_dir)
