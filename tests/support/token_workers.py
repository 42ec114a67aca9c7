"""Processes that tokenize over one store, each as a router does.

``python -m tests.support.token_workers FD DIRECTORY KIND`` reads request bodies, one a line, and answers each with a
line of JSON.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from extproc.api.body import decode
from extproc.api.paths import DECODERS
from extproc.config.models import ModelSpec
from extproc.shm.segment import Segment
from extproc.shm.token_store import TokenStore
from tests.support.processes import environment
from tests.support.readers import CHAT, Reading


class TokenWorker:
    """One such process."""

    def __init__(self, segment: Segment, directory: Path, kind: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.token_workers", str(segment.fd), str(directory), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
            pass_fds=(segment.fd,),
        )

    def read(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        """Tokenize a chat; returns its ids, the cache result, and sizes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"model": "m", "messages": messages}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def main() -> None:
    fd, directory, kind = sys.argv[1:]
    store = TokenStore.of_segment(Segment.attach(int(fd)))
    reading = Reading(ModelSpec(name="m", source=str(Path(directory, kind))), store=store)
    for line in sys.stdin:
        prompts = reading.reader.read(decode(DECODERS[CHAT], line.encode()), "m")
        assert isinstance(prompts, tuple)
        tokens = prompts[0]
        answer = {"ids": tokens.ids.tolist(), "hashes": tokens.block_hashes.tolist(), "cache": tokens.cache}
        print(json.dumps({**answer, "bytes": tokens.text_bytes, "reused": tokens.reused_bytes}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
