import random
from dataclasses import dataclass

from extproc.router.accept_gate import FADE_SECS, AcceptGate


@dataclass
class Row:
    shared_streams: int = 0


def gates(count: int) -> list[AcceptGate]:
    rows = [Row() for _ in range(count)]
    return [AcceptGate(row, lambda: rows) for row in rows]


def winner(routers: list[AcceptGate], rng: random.Random) -> AcceptGate:
    """Who accepts first: the shortest delay; the kernel decides between equals."""
    return min(routers, key=lambda gate: (gate.accept_delay_secs(), rng.random()))


def test_an_idle_service_accepts_at_once() -> None:
    assert [gate.accept_delay_secs() for gate in gates(3)] == [0, 0, 0]


def test_the_delay_grows_with_the_rank() -> None:
    routers = gates(3)
    for load, gate in enumerate(routers):
        for _ in range(load):
            gate.stream_opened()
    delays = [gate.accept_delay_secs() for gate in routers]
    assert delays == sorted(set(delays))
    assert delays[0] == 0


def test_a_router_that_is_not_ready_leaves_connections_to_those_that_are() -> None:
    ready = [Row(5), Row(7)]
    outside = AcceptGate(Row(), lambda: ready)
    assert outside.accept_delay_secs() > max(AcceptGate(row, lambda: ready).accept_delay_secs() for row in ready)
    ready.clear()
    assert outside.accept_delay_secs() == 0


def test_connections_that_stay_spread_evenly() -> None:
    routers, rng = gates(4), random.Random(1)
    taken = {id(gate): 0 for gate in routers}
    for _ in range(40):
        gate = winner(routers, rng)
        taken[id(gate)] += 1
        gate.connection_accepted()
        for _ in range(100):
            gate.stream_opened()
    assert set(taken.values()) == {10}


def test_streams_that_are_gone_at_once_spread_evenly_too() -> None:
    routers, rng = gates(4), random.Random(2)
    streams = {id(gate): 0 for gate in routers}
    for _ in range(200):
        gate = winner(routers, rng)
        gate.connection_accepted()
        for _ in range(100):
            gate.stream_opened()
            gate.stream_closed()
        streams[id(gate)] += 100
        for other in routers:
            other.fade(0.05)
    share = sum(streams.values()) / len(routers)
    assert all(share * 0.9 <= count <= share * 1.1 for count in streams.values())


def test_the_past_fades() -> None:
    old, new = gates(2)
    for _ in range(1000):
        old.stream_opened()
        old.stream_closed()
    for _ in range(20):
        old.fade(FADE_SECS)
    assert old.accept_delay_secs() == new.accept_delay_secs() == 0
