"""A load played to a gateway in real time: what is sent for each turn, and what the client sees of its answer.

Sessions start when the load says, whatever became of others; each turn of one follows the end of the answer before it
by its think time. A turn becomes one streamed chat completion with a text of four bytes a token, so that two texts
begin alike exactly as far as the blocks of their turns do: what prompts share in a block that they do not share to its
end counts as different, and so does an answer that comes back in the next prompt.
"""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NamedTuple

import aiohttp

from extproc.simulation.loads.load import BLOCK_TOKENS, Load, Turn
from tests.bench.load import MODEL

PATH = "/v1/chat/completions"
BYTES_PER_TOKEN = 4
BLOCK_BYTES = BLOCK_TOKENS * BYTES_PER_TOKEN
MAX_ANSWER_TOKENS = 100
ANSWER_SECS = 60.0
PLAY_SECS = 180.0
"""A load that has not ended by then fails."""

READ_BYTES = 1 << 18
WARM_UP_REQUESTS = 16


class Planned(NamedTuple):
    """A session that is ready to be sent: when it starts, its key, and for each turn its think time and its body."""

    starts_at: float
    key: str
    turns: tuple[tuple[float, bytes], ...]


@dataclass
class Played:
    """What a client saw of one load on one gateway.

    ``ttft_secs`` has an entry for every answer with text, from the moment when the request was due to be written to its
    first token; ``late_secs`` tells how much later than planned the client got to the start of each session.
    """

    ttft_secs: list[float] = field(default_factory=list)
    late_secs: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    failures: list[str] = field(default_factory=list)
    secs: float = 0.0


def planned(load: Load) -> list[Planned]:
    """Make all bodies of a load before its first one is sent."""
    pieces: dict[int, str] = {}
    return [
        Planned(
            session.starts_at,
            session.key,
            tuple((turn.think_secs, _body(_text(turn, pieces), turn.answer_tokens)) for turn in session.turns),
        )
        for session in load.sessions()
    ]


async def play(url: str, sessions: Sequence[Planned]) -> Played:
    """Send everything and wait for the last answer; raises ``TimeoutError`` when that takes too long."""
    played = Played()
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECS)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=timeout, read_bufsize=READ_BYTES
    ) as client:
        player = _Player(client, f"{url}{PATH}", played)
        began = perf_counter()
        async with asyncio.timeout(PLAY_SECS), asyncio.TaskGroup() as group:
            for session in sessions:
                group.create_task(player.session(session, began))
        played.secs = perf_counter() - began
    return played


async def warm_up(url: str) -> None:
    """Send a few short requests that share nothing with a load; raises ``RuntimeError`` where one fails."""
    bodies = [_body(f"{number:x} warms up", 4) for number in range(WARM_UP_REQUESTS)]
    played = await play(url, [Planned(0.02 * at, "warm-up", ((0.0, body),)) for at, body in enumerate(bodies)])
    if played.failures:
        raise RuntimeError(f"a request of the warm-up failed: {played.failures[0]}")


class _Player:
    """Sends the sessions of one load."""

    def __init__(self, client: aiohttp.ClientSession, url: str, played: Played) -> None:
        self._client = client
        self._url = url
        self._played = played

    async def session(self, session: Planned, began: float) -> None:
        """Wait for the start of a session, and send its turns one after the other; a failed one ends it."""
        due = began + session.starts_at
        await asyncio.sleep(max(0.0, due - perf_counter()))
        self._played.late_secs.append(perf_counter() - due)
        for think_secs, body in session.turns:
            await asyncio.sleep(think_secs)
            due = due if body is session.turns[0][1] else perf_counter()
            try:
                await self._turn(session.key, body, due)
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                self._played.failures.append(f"{type(error).__name__}: {error}")
                return

    async def _turn(self, key: str, body: bytes, due: float) -> None:
        """Send one request; raises ``ValueError`` where the answer is not one of text and usage."""
        headers = {"content-type": "application/json", "x-extproc-routing-key": key}
        async with self._client.post(self._url, data=body, headers=headers) as response:
            if response.status != 200:
                raise ValueError(f"status {response.status}: {(await response.text())[:200]}")
            first, usage = 0.0, None
            async for line in response.content:
                if first and b'"usage"' not in line:
                    continue
                event = _event(line)
                if not first and _has_text(event):
                    first = perf_counter()
                usage = event.get("usage") or usage
        if not first or usage is None:
            raise ValueError("the answer has no text, or no usage")
        self._played.ttft_secs.append(first - due)
        self._played.prompt_tokens += usage["prompt_tokens"]
        self._played.cached_tokens += (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)


def _text(turn: Turn, pieces: dict[int, str]) -> str:
    """Write a turn's prompt; ``pieces`` keeps the text of every block."""
    parts = []
    for block in turn.blocks.tolist():
        if block not in pieces:
            pieces[block] = hashlib.shake_128(block.to_bytes(8, "little")).hexdigest(BLOCK_BYTES // 2)
        parts.append(pieces[block])
    return "".join(parts)[: turn.prompt_tokens * BYTES_PER_TOKEN]


def _body(text: str, answer_tokens: int) -> bytes:
    return json.dumps(
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": min(answer_tokens, MAX_ANSWER_TOKENS),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()


def _event(line: bytes) -> dict[str, Any]:
    """Read a line of an event stream; nothing where it is none with a document. Raises ``ValueError``."""
    data = line.removeprefix(b"data:").strip()
    if not line.startswith(b"data:") or data == b"[DONE]":
        return {}
    event = json.loads(data)
    if not isinstance(event, dict) or "error" in event:
        raise ValueError(f"not a chunk of an answer: {data[:200]!r}")
    return event


def _has_text(event: dict[str, Any]) -> bool:
    return any((choice.get("delta") or {}).get("content") for choice in event.get("choices", ()))
