"""``python -m workers.simulated``: exit code 0 after SIGTERM or SIGINT, 2 for flags, 3 when the address is taken."""

import asyncio
import sys
from collections.abc import Callable, Sequence

from workers.simulated.flags import parse_flags
from workers.simulated.fleet import Fleet
from workers.simulated.settings import Settings

EXIT_CANNOT_START = 3


def main(arguments: Sequence[str]) -> int:
    """Run workers until told to stop."""
    settings = parse_flags(arguments)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(settings))
    except OSError as error:
        sys.stderr.write(f"simulated worker: cannot serve {settings.host}:{settings.port}: {error}\n")
        return EXIT_CANNOT_START
    return 0


async def _serve(settings: Settings) -> None:
    await Fleet(settings).run()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    if sys.implementation.name != "cpython":
        return asyncio.new_event_loop
    # It is a dependency on CPython only.
    import uvloop  # noqa: PLC0415

    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
