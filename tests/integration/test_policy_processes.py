"""Policies with state of their own in four real processes, which share nothing but the segment's descriptor."""

from collections import Counter

import pytest

from extproc.policies.base import Reason
from tests.support.policy_process import policy_processes

PROCESSES = 4


def test_round_robin_is_even_over_processes_that_decide_at_once() -> None:
    with policy_processes("round_robin") as start:
        processes = [start.start(slot) for slot in range(PROCESSES)]
        assert [process.ask().worker for process in processes] == ["w0", "w1", "w2", "w3"]
        for _ in range(300):
            for process in processes:
                process.send()
        counts = Counter(process.answer().worker for process in processes for _ in range(300))
        assert len(counts) == 4
        # Two that decide at the same moment may take the same turn, which evens out.
        assert max(counts.values()) < 1.25 * min(counts.values())


def test_a_routing_key_is_known_to_all_processes_and_outlives_the_one_that_assigned_it() -> None:
    with policy_processes("manual") as start:
        processes = [start.start(slot) for slot in range(PROCESSES)]
        given = {f"key {number}": processes[number % 4].ask(key=f"key {number}") for number in range(16)}
        assert {answer.reason for answer in given.values()} == {Reason.STICKY_ASSIGNED}
        processes[0].kill()
        processes[0] = start.start(0)
        for key, (worker, _) in given.items():
            assert [process.ask(key=key) for process in processes] == [(worker, Reason.STICKY)] * 4


def test_ranges_of_lengths_follow_from_what_all_processes_have_seen() -> None:
    with policy_processes("bucket") as start:
        processes = [start.start(slot) for slot in range(PROCESSES)]
        for seed in range(30):
            for process, tokens in zip(processes, (20, 20, 20, 4000), strict=True):
                process.ask(tokens=tokens, seed=seed)
        # Before, each would have given 3,000 tokens to the second of four.
        assert {process.ask(tokens=3000, now=1006.0).worker for process in processes} == {"w0"}
        processes[3].kill()
        assert {process.ask(tokens=3000, now=1012.0).worker for process in processes[:3]} == {"w0"}


@pytest.mark.parametrize("name", ["cache_aware", "expected_latency"])
def test_a_prefix_that_one_process_sent_is_found_by_all_also_after_its_death(name: str) -> None:
    with policy_processes(name) as start:
        processes = [start.start(slot) for slot in range(PROCESSES)]
        sent = {seed: processes[seed % 4].ask(tokens=3200, seed=seed).worker for seed in range(8)}
        assert set(sent.values()) == {"w0", "w1", "w2", "w3"}
        processes[1].kill()
        processes[1] = start.start(1)
        for seed, worker in sent.items():
            assert {process.ask(tokens=3200, seed=seed, now=1100.0).worker for process in processes} == {worker}
