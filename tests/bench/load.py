"""The load: ``wrk``, and the scripts that tell it what to send."""

import asyncio
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.bench.inputs import Message, Texts, prose

MODEL = "m"
"""What requests ask for."""

CONVERSATIONS = 1000
BODY_BYTES = 600
SYSTEM_PROMPTS = 10
SYSTEM_BYTES = 200
SERIAL = "@serial@"

_BEGIN = 'wrk.method = "POST"\nwrk.headers["content-type"] = "application/json"\n'
_END = (
    'done = function(s, l, r) io.write(string.format("JSON %d %d %d %d %d\\n", s.requests, s.duration,'
    " l:percentile(50), l:percentile(99), s.errors.status + s.errors.connect + s.errors.read + s.errors.write"
    " + s.errors.timeout)) end\n"
)
# The factor is odd, so that no two serials are alike, and large, so that they do not begin alike either.
_IN_TURN = f"""
local fresh, bodies, serial = FRESH, {{}}, 0
init = function(args)
  for line in io.lines("FILE") do bodies[#bodies + 1] = line end
  serial = tonumber(args[1])
end
request = function()
  serial = serial + 1
  local body = bodies[serial % #bodies + 1]
  if fresh then body = body:gsub("{SERIAL}", string.format("%08x", serial * 2654435761 % 4294967296)) end
  return wrk.format(nil, nil, nil, body)
end
"""


class Effort(NamedTuple):
    """How much is measured: the length of one measurement, rounds over all set-ups, connections of the client."""

    seconds: int
    rounds: int
    connections: int


@dataclass(frozen=True)
class WrkReport:
    """What ``wrk`` saw; latencies in milliseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def same_body(directory: Path, body_bytes: int) -> Path:
    """Write a script that sends one body again and again."""
    sentence = "Tell me a story about routers. "
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": (sentence * (body_bytes // len(sentence) + 1))[: body_bytes - 150]},
    ]
    path = directory / "same.lua"
    path.write_text(f"{_BEGIN}wrk.body = [==[{_body(messages)}]==]\n{_END}")
    return path


def conversations(directory: Path, *, fresh: bool) -> Path:
    """Write a script that sends many conversations in turn.

    They are the same in every run. Half of them have one of a few system prompts, a quarter has several messages. When
    ``fresh`` no body is sent twice: each has a word of its own where the first message of its user begins.
    """
    listed = directory / "conversations.jsonl"
    listed.write_text("".join(f"{_body(messages)}\n" for messages in _conversations()))
    path = directory / f"conversations-{'fresh' if fresh else 'again'}.lua"
    script = _IN_TURN.replace("FRESH", "true" if fresh else "false").replace("FILE", str(listed))
    path.write_text(f"{_BEGIN}{script}{_END}")
    return path


async def drive(url: str, script: Path, effort: Effort, *, seconds: int | None = None, start: int = 0) -> WrkReport:
    """Send chat completions; ``seconds`` is for a warm-up, ``start`` is where the script goes on in what it sends.

    Raises ``SystemExit`` when a request fails.
    """
    process = await asyncio.create_subprocess_exec(
        *("wrk", "-t1", f"-c{effort.connections}", f"-d{seconds or effort.seconds}", "-s", str(script)),
        *(f"{url}/v1/chat/completions", "--", str(start)),
        stdout=asyncio.subprocess.PIPE,
    )
    output = (await process.communicate())[0].decode()
    match = re.search(r"JSON (\d+) (\d+) (\d+) (\d+) (\d+)", output)
    if process.returncode or match is None:
        raise SystemExit(f"wrk failed\n{output}")
    requests, micros, p50, p99, errors = map(int, match.groups())
    if errors:
        raise SystemExit(f"{errors} of {requests} requests failed; a benchmark of failures says nothing\n{output}")
    return WrkReport(requests, micros / 1e6, p50 / 1e3, p99 / 1e3)


def _conversations() -> Iterator[list[Message]]:
    texts, rng = Texts(prose()), random.Random(6)
    systems = [_fill(texts, SYSTEM_BYTES) for _ in range(SYSTEM_PROMPTS)]
    for number in range(CONVERSATIONS):
        system = [{"role": "system", "content": rng.choice(systems)}] if number % 2 else []
        roles = ["user", "assistant", "user"] if number % 4 == 0 else ["user"]
        messages = [*system, *({"role": role, "content": ""} for role in roles)]
        left = BODY_BYTES - len(_body(messages)) - len(SERIAL)
        for message in messages[len(system) :]:
            message["content"] = _fill(texts, left // len(roles))
        messages[len(system)]["content"] = SERIAL + messages[len(system)]["content"]
        yield messages


def _fill(texts: Texts, size: int) -> str:
    """Cut a text that takes at most ``size`` bytes as JSON, and hardly less."""
    text = texts.cut(size)
    return text[: size - (len(json.dumps(text)) - 2 - size)]


def _body(messages: list[Message]) -> str:
    return json.dumps({"model": MODEL, "messages": messages, "stream": False})
