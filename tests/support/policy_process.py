"""A policy in a process of its own, on a segment that is inherited by descriptor, asked line by line."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from subprocess import Popen
from typing import NamedTuple

from extproc.index.sticky_map import StickyMap, bytes_for
from extproc.policies.base import Needs, Reason
from extproc.policies.registry import POLICIES
from extproc.shm.layout import Part
from extproc.shm.segment import Segment
from tests.support.fleets import Shared, candidates, prompt, request_with
from tests.support.processes import python_child

WORKERS = 4


class Answer(NamedTuple):
    """Whom a process has chosen, and why."""

    worker: str
    reason: Reason


class PolicyProcess:
    """One process, from the outside."""

    def __init__(self, child: "Popen[str]") -> None:
        self._child = child

    def ask(self, *, tokens: int = 16, seed: int = 0, key: str = "", now: float = 1000.0) -> Answer:
        self.send(tokens=tokens, seed=seed, key=key, now=now)
        return self.answer()

    def send(self, *, tokens: int = 16, seed: int = 0, key: str = "", now: float = 1000.0) -> None:
        assert self._child.stdin
        self._child.stdin.write(json.dumps({"tokens": tokens, "seed": seed, "key": key, "now": now}) + "\n")
        self._child.stdin.flush()

    def answer(self) -> Answer:
        assert self._child.stdout
        worker, reason = json.loads(self._child.stdout.readline())
        return Answer(worker, Reason(reason))

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()


class PolicyProcesses:
    """Starts processes that share a segment."""

    def __init__(self, stack: ExitStack, name: str) -> None:
        self._stack = stack
        self._name = name
        self._segment = Segment.create({Part.PREFIX_INDEX: 1 << 20, Part.STICKY_MAP: bytes_for(1024)})
        StickyMap.prepare(self._segment.part(Part.STICKY_MAP))
        stack.callback(self._segment.close)

    def start(self, slot: int) -> PolicyProcess:
        child = self._stack.enter_context(
            python_child(
                "from tests.support.policy_process import main; main()",
                str(self._segment.fd),
                str(slot),
                self._name,
                pass_fds=(self._segment.fd,),
            )
        )
        return PolicyProcess(child)


@contextmanager
def policy_processes(name: str) -> Iterator[PolicyProcesses]:
    """Share a segment between processes, which are killed at the end."""
    with ExitStack() as stack:
        yield PolicyProcesses(stack, name)


def main() -> None:
    """Serve as a process: choose and account for every line."""
    fd, slot, name = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    shared, everyone = Shared(segment=Segment.attach(fd)), candidates(WORKERS)
    policy = POLICIES[name](shared.context(process_slot=slot, seed=slot))
    accounts = shared.accounts(process_slot=slot)
    for line in sys.stdin:
        asked: Mapping[str, int] = json.loads(line)
        shared.clock.now = asked["now"]
        headers = {"x-extproc-routing-key": str(asked["key"])} if asked["key"] else {}
        request = request_with(prompt(asked["tokens"], seed=asked["seed"]), headers=headers)
        choice = policy.choose(request, everyone)
        accounts.start(request, choice, record=policy.needs >= Needs.PREFIXES)
        sys.stdout.write(json.dumps([choice.workers[0].id, choice.reason]) + "\n")
        sys.stdout.flush()
