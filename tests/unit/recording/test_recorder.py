"""What a router takes down of a request, from its arrival to its end, and when it stops doing so."""

import json
from typing import Any

import numpy as np
import pytest

from extproc.api.body import decode
from extproc.api.paths import DECODERS
from extproc.api.request import RoutingRequest
from extproc.policies.base import Choice, Reason
from extproc.recording import recorder as module
from extproc.recording.record import MAX_INPUT_TOKENS, Recorded
from extproc.recording.recorder import Batch, Recorder
from extproc.routing.accounting import Flight
from extproc.shm.recording import RecordingOrder
from extproc.shm.worker_table import Engine
from tests.support.fleets import Shared, prompt, workers
from tests.support.recordings import order

ONE, TWO = workers(2)
CHAT = "/v1/chat/completions"
START = 1000.0
"""Of the clock."""
NS = 1_000_000_000


class Bench:
    """One router's recorder and accounts over two workers."""

    def __init__(self, *, secs: float = 60.0, on: bool = True) -> None:
        self.shared = Shared()
        self.clock = self.shared.clock
        self.order = RecordingOrder(self.shared.segment)
        self.begun: list[int] = []
        self.ended: list[str] = []
        known = {ONE.address: ONE, TWO.address: TWO}
        self.accounts = self.shared.accounts(worker_at=lambda address, _rank: known.get(address))
        self.recorder = Recorder(
            order=self.order,
            table=self.shared.table,
            clock=self.clock,
            assumed_answer_tokens=256,
            on_begun=self.begun.append,
        )
        if on:
            self.begin(7, secs=secs)

    def begin(self, number: int, *, secs: float = 60.0) -> None:
        self.order.give(order(number, until_ns=int((self.clock.now + secs) * NS)))

    def route(self, request: RoutingRequest | None = None, *, matched: int | None = None) -> Flight:
        """Let a request arrive and choose for it, as a director does."""
        request = request or chat()
        arrived = self.recorder.began()
        choice = Choice((ONE, TWO), Reason.LEAST_LOAD, matched)
        flight = self.accounts.start(request, choice, record=False)
        flight.on_end = lambda: self.ended.append("ticket")
        if arrived:
            self.recorder.chosen(request, choice, policy="least_load", flight=flight, arrived=arrived)
        return flight

    def serve(
        self, flight: Flight, *, secs: float = 2.0, status: int = 200, served: str = ONE.address, streamed: bool = False
    ) -> None:
        """Let headers come at half the time and the end at the end; of what is not streamed both at the end."""
        self.clock.advance(secs / 2)
        if not streamed:
            self.clock.advance(secs / 2)
        self.accounts.answered(flight, status=status, served=served, streamed=streamed)
        if streamed:
            self.clock.advance(secs / 2)
        self.accounts.finish(flight)

    def batch(self) -> Batch:
        (batch,) = self.recorder.take()
        self.recorder.written(batch)
        return batch

    def only(self) -> Recorded:
        (request,) = self.batch().requests
        return request

    def speed(self, *, step_secs: float, prefill_rate: float = 0.0) -> None:
        """What the engine of the first worker reports."""
        self.shared.table.engines[ONE.slot, Engine.DECODE_STEP_SECS] = step_secs
        self.shared.table.engines[ONE.slot, Engine.PREFILL_RATE] = prefill_rate


def chat(tokens: int = 1600, **fields: object) -> RoutingRequest:
    payload = json.dumps({"model": "m", "messages": [], **fields}).encode()
    body = decode(DECODERS[CHAT], payload)
    return RoutingRequest(method="POST", path=CHAT, headers={}, payload=payload, body=body, prompts=(prompt(tokens),))


def test_nothing_is_recorded_until_that_is_ordered() -> None:
    bench = Bench(on=False)
    bench.serve(bench.route())
    assert bench.recorder.began() == 0
    assert (bench.recorder.take(), bench.recorder.holds, bench.begun) == ([], 0, [])


def test_a_request_is_recorded_at_its_end_with_all_that_is_known() -> None:
    bench = Bench()
    flight = bench.route(chat(max_tokens=40), matched=512)
    assert bench.recorder.take() == []
    bench.serve(flight, secs=2.0)
    hashes = prompt(1600).block_hashes
    expected = np.array([hashes[31], hashes[63], hashes[95], hashes[99]]).tobytes()
    assert bench.only() == Recorded(
        arrived=START,
        lasted=2.0,
        input_length=1600,
        input_from="tokens",
        output_length=40,
        output_from="limit",
        hashes=expected,
        tail=True,
        model="m",
        worker="w0",
        served="w0",
        status=200,
        policy="least_load",
        reason="least_load",
        matched_tokens=512,
    )
    assert (bench.begun, bench.recorder.holds, bench.ended) == ([7], 7, ["ticket"])


def test_the_arrival_is_before_the_wait_for_a_place() -> None:
    bench = Bench()
    request = chat()
    arrived = bench.recorder.began()
    bench.clock.advance(5)
    choice = Choice((ONE,), Reason.RANDOM)
    flight = bench.accounts.start(request, choice, record=False)
    bench.recorder.chosen(request, choice, policy="random", flight=flight, arrived=arrived)
    bench.serve(flight, secs=2)
    found = bench.only()
    assert (found.arrived, found.lasted) == (START, 7)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        # 5 s, of which 1,600 tokens and their attention take 1.03 s; 20 ms for each token.
        ({}, (198, "time")),
        ({"max_tokens": 1000}, (198, "time")),
        ({"max_tokens": 150}, (150, "time")),
    ],
)
def test_an_answer_is_as_long_as_its_time_says_and_its_limit_allows(
    fields: dict[str, Any], expected: tuple[int, str], *, streamed: bool
) -> None:
    bench = Bench()
    bench.speed(step_secs=0.02, prefill_rate=1600)
    bench.serve(bench.route(chat(**fields)), secs=5, streamed=streamed)
    found = bench.only()
    assert ((found.output_length, found.output_from), found.lasted) == (expected, 5)


def test_the_prompts_before_it_take_their_time_too() -> None:
    bench = Bench()
    bench.speed(step_secs=0.02, prefill_rate=1600)
    bench.route(chat(3200))
    bench.serve(bench.route(chat(1600)), secs=5)
    assert bench.only().output_length == 92


def test_an_answer_that_took_no_time_has_a_token() -> None:
    bench = Bench()
    bench.speed(step_secs=0.02, prefill_rate=10)
    bench.serve(bench.route(), secs=1)
    assert bench.only().output_length == 1


@pytest.mark.parametrize(("fields", "expected"), [({}, (256, "assumed")), ({"max_tokens": 9}, (9, "limit"))])
def test_without_a_known_speed_an_answer_is_as_long_as_it_may_be(
    fields: dict[str, Any], expected: tuple[int, str]
) -> None:
    bench = Bench()
    bench.serve(bench.route(chat(**fields)))
    found = bench.only()
    assert (found.output_length, found.output_from) == expected


def test_a_refused_request_has_the_time_but_not_the_length_of_an_answer() -> None:
    bench = Bench()
    bench.speed(step_secs=0.02)
    bench.serve(bench.route(), secs=1, status=400)
    found = bench.only()
    assert (found.status, found.lasted, found.output_length, found.output_from) == (400, 1, 256, "assumed")


def test_who_has_served_is_told_beside_who_was_chosen() -> None:
    bench = Bench()
    bench.speed(step_secs=0.02)
    bench.serve(bench.route(), served=TWO.address)
    found = bench.only()
    assert (found.worker, found.served, found.output_from) == ("w0", "w1", "assumed")


def test_a_stream_that_ended_early_tells_the_end_of_whole_answers_only() -> None:
    bench = Bench()
    for streamed in (True, False):
        flight = bench.route()
        bench.clock.advance(1)
        bench.accounts.answered(flight, status=200, served=ONE.address, streamed=streamed)
        bench.accounts.finish(flight, early=True)
        bench.clock.advance(200)
        bench.begin(7, secs=600)
        bench.accounts.sweep()
    assert [found.lasted for found in bench.batch().requests] == [None, 1]


def test_an_embedding_has_no_answer() -> None:
    bench = Bench()
    bench.speed(step_secs=0.02)
    request = RoutingRequest(method="POST", path="/v1/embeddings", headers={}, payload=b"", prompts=(prompt(20),))
    request.body = decode(DECODERS["/v1/embeddings"], b'{"model": "m", "input": "x"}')
    bench.serve(bench.route(request))
    found = bench.only()
    assert (found.output_length, found.output_from) == (0, "limit")


@pytest.mark.parametrize(("length", "tokens"), [("4000", 1000), ("", 1), ("99999999999", MAX_INPUT_TOKENS)])
def test_of_a_body_that_was_not_read_the_size_is_known_at_most(length: str, tokens: int) -> None:
    bench = Bench()
    bench.serve(bench.route(RoutingRequest(method="POST", path=CHAT, headers={"content-length": length})))
    found = bench.only()
    assert (found.input_length, found.input_from, found.hashes, found.model) == (tokens, "size", b"", None)


def test_a_prompt_known_by_its_text_says_so() -> None:
    bench = Bench()
    request = chat()
    request.prompts = (prompt(1600)._replace(cache="text"),)
    bench.serve(bench.route(request))
    assert bench.only().input_from == "text"


@pytest.mark.parametrize(("method", "path"), [("GET", CHAT), ("POST", "/v1/models"), ("GET", "/health")])
def test_what_is_no_inference_is_not_recorded(method: str, path: str) -> None:
    bench = Bench()
    bench.serve(bench.route(RoutingRequest(method=method, path=path, headers={})))
    assert (bench.recorder.take(), bench.begun, bench.ended) == ([], [], ["ticket"])


def test_a_long_name_of_a_model_is_cut() -> None:
    bench = Bench()
    bench.serve(bench.route(chat(model="m" * 5000)))
    assert bench.only().model == "m" * 128


def test_when_the_time_is_over_what_is_under_way_is_handed_over_without_its_end_once() -> None:
    bench = Bench(secs=10)
    done, open_ = bench.route(), bench.route()
    bench.serve(done)
    bench.clock.advance(8)
    batch = bench.batch()
    assert batch.closing
    assert sorted([found.lasted is None for found in batch.requests]) == [False, True]
    assert bench.recorder.holds == 0
    bench.serve(open_)
    assert (bench.recorder.take(), bench.ended) == ([], ["ticket", "ticket"])
    assert bench.recorder.began() == 0


def test_it_can_be_ended_before_its_time() -> None:
    bench = Bench()
    bench.route()
    bench.order.end()
    assert bench.recorder.began() == 0
    batch = bench.batch()
    assert (batch.closing, len(batch.requests)) == (True, 1)


def test_a_request_whose_choice_comes_after_the_end_is_left_out() -> None:
    bench = Bench(secs=10)
    request, choice = chat(), Choice((ONE,), Reason.RANDOM)
    arrived = bench.recorder.began()
    bench.clock.advance(11)
    flight = bench.accounts.start(request, choice, record=False)
    bench.recorder.chosen(request, choice, policy="random", flight=flight, arrived=arrived)
    bench.serve(flight)
    assert (bench.recorder.take(), bench.begun) == ([], [])


def test_two_recordings_in_a_row_are_kept_apart() -> None:
    bench = Bench(secs=10)
    first = bench.route()
    bench.clock.advance(20)
    bench.begin(8)
    bench.serve(bench.route())
    bench.serve(first)
    old, new = bench.recorder.take()
    assert (old.order.number, old.closing, len(old.requests)) == (7, True, 1)
    assert (new.order.number, new.closing, len(new.requests)) == (8, False, 1)
    assert (bench.begun, bench.recorder.holds) == ([7, 8], 8)


def test_closing_hands_over_the_rest() -> None:
    bench = Bench()
    bench.route()
    bench.recorder.close()
    batch = bench.batch()
    assert (batch.closing, len(batch.requests), bench.recorder.holds) == (True, 1, 0)
    bench.recorder.close()
    assert bench.recorder.take() == []


@pytest.mark.parametrize(("requests", "size"), [(3, 1 << 20), (100, 3 * 4 * 8)])
def test_no_more_is_held_than_there_is_room_for_until_it_is_written(
    requests: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_HELD_REQUESTS", requests)
    monkeypatch.setattr(module, "MAX_HELD_BYTES", size)
    bench = Bench()
    for _ in range(2):
        for _ in range(5):
            bench.serve(bench.route())
        (batch,) = bench.recorder.take()
        assert (len(batch.requests), batch.left_out) == (3, 2)
        bench.serve(bench.route())
        (none,) = bench.recorder.take()
        assert (none.requests, none.left_out) == ([], 1)
        bench.recorder.written(batch)
