"""One RPC between transport and decision: answers, watchdog, faults, and accounting in every way a stream can end."""

import asyncio
import json

import pytest

from extproc.errors import NoEndpoint, PolicyFailed, Refusal
from extproc.pb.ext_proc_pb2 import ProcessingRequest
from extproc.routing.decision import Decision
from extproc.shm.worker_table import Outcome as OutcomeNumber
from tests.support import messages as m
from tests.support.handlers import Bench, Transport, served_by


def test_a_request_is_in_flight_from_its_decision_to_the_end_of_the_stream() -> None:
    bench = Bench()
    bench.receive(m.request_headers("buffered"))
    assert bench.in_flight == 0
    bench.receive(m.request_body(b"{}"))
    assert bench.in_flight == 1
    assert m.destinations(bench.transport.sent) == ["10.0.0.1:8000"]
    bench.handler.closed()
    assert (bench.in_flight, bench.service.active) == (0, 0)
    assert bench.count("routed") == 1


def test_the_decision_header_names_worker_policy_and_reason() -> None:
    bench = Bench()
    bench.receive(m.request_headers("buffered", end_of_stream=True), m.response_headers())
    mutation = m.parse(bench.transport.sent)[1].response_headers.response.header_mutation
    assert mutation.set_headers[0].header.raw_value == b"worker=w1; policy=random; reason=random"


def test_a_refusal_is_answered_counted_and_ends_the_stream() -> None:
    bench = Bench()
    bench.outcome = lambda: NoEndpoint("nobody")
    bench.receive(m.request_headers("buffered", end_of_stream=True))
    answer = bench.transport.answer
    headers = {option.header.key: option.header.raw_value for option in answer.headers.set_headers}
    assert answer.status.code == 503
    assert headers["retry-after"] == b"1"
    assert headers["x-extproc-reason"] == b"no_endpoint"
    assert json.loads(answer.body)["error"]["message"] == "nobody"
    assert bench.transport.status == 0
    assert bench.count("no_endpoint") == 1


def test_clients_of_the_messages_api_get_their_outer_type_too() -> None:
    bench = Bench()
    bench.outcome = lambda: NoEndpoint("nobody")
    bench.receive(m.request_headers("buffered", path="/v1/messages", end_of_stream=True))
    assert json.loads(bench.transport.answer.body)["type"] == "error"


def test_an_oversized_body_is_answered_413() -> None:
    bench = Bench()
    bench.receive(m.request_headers("buffered", headers={"content-length": str(1 << 40)}))
    assert bench.transport.answer.status.code == 413
    assert bench.count("body_too_large") == 1


def test_our_own_fault_leaves_the_request_to_the_data_plane(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.outcome = ZeroDivisionError
    bench.receive(m.request_headers("buffered"), m.request_body(b"{}"))
    assert m.kinds(bench.transport.sent) == ["request_headers", "request_body"]
    assert m.destinations(bench.transport.sent) == []
    assert bench.count("open") == 1
    assert "The decision failed" in caplog.text


def test_our_own_fault_is_answered_500_when_the_operator_chose_closed() -> None:
    bench = Bench(on_error="closed")
    bench.outcome = ZeroDivisionError
    bench.receive(m.request_headers("buffered"), m.request_body(b"{}"))
    assert bench.transport.answer.status.code == 500


@pytest.mark.parametrize("later", [False, True])
async def test_a_policy_that_failed_is_our_own_fault_and_told_of_where_it_failed(
    later: bool, caplog: pytest.LogCaptureFixture
) -> None:
    for on_error in ("open", "closed"):
        bench = Bench(on_error=on_error)
        future = await pending()
        bench.outcome = (lambda future=future: future) if later else (lambda: PolicyFailed("p"))  # type: ignore[misc]
        bench.receive(m.request_headers("buffered"), m.request_body(b"{}"))
        if later:
            future.set_exception(PolicyFailed("p"))
            await asyncio.sleep(0)
        if on_error == "open":
            assert (bench.count("open"), m.destinations(bench.transport.sent)) == (1, [])
        else:
            assert bench.transport.answer.status.code == 500
    assert caplog.text == ""


def test_bytes_that_are_no_message_end_the_stream_with_invalid_argument() -> None:
    bench = Bench()
    bench.handler.receive(b"\xff\xff\xff")
    assert bench.transport.status == 3
    bench.handler.closed()
    assert bench.ends() == {"clean": 0, "reset": 0, "error": 1}


async def test_a_stream_that_breaks_off_before_its_decision_counts_as_reset() -> None:
    reading, deciding = Bench(), Bench()
    future = await pending()
    deciding.outcome = lambda: future
    reading.receive(m.request_headers("buffered"))
    deciding.receive(m.request_headers("buffered", end_of_stream=True))
    for bench in (reading, deciding):
        bench.handler.closed()
        assert bench.ends() == {"clean": 0, "reset": 1, "error": 0}


def test_streams_over_the_limit_are_answered_429() -> None:
    bench = Bench(max_streams=1)
    transport = Transport()
    second = bench.service.open_stream(transport)
    second.receive(m.request_headers("full_duplex").SerializeToString())
    assert transport.answer.status.code == 429
    second.closed()
    assert bench.service.active == 1


def test_bodies_that_together_are_more_than_may_be_held_are_answered_429_and_let_go() -> None:
    bench = Bench(max_held_bytes=2000)
    second = Transport()
    handler = bench.service.open_stream(second)
    chunk = m.request_body(b"x" * 1500, end_of_stream=False)
    bench.receive(m.request_headers("full_duplex"), chunk)
    for message in (m.request_headers("full_duplex"), chunk):
        handler.receive(message.SerializeToString())
    assert (second.answer.status.code, bench.service.held_bytes) == (429, 1500)
    handler.closed()
    bench.receive(m.request_body(b"x"))
    assert bench.service.held_bytes == 0
    assert m.destinations(bench.transport.sent) == ["10.0.0.1:8000"]


def test_new_requests_of_a_stopping_router_are_answered_503() -> None:
    bench = Bench()
    bench.service.stop_taking()
    transport = Transport()
    bench.service.open_stream(transport).receive(m.request_headers("buffered").SerializeToString())
    headers = {option.header.key: option.header.raw_value for option in transport.answer.headers.set_headers}
    assert (transport.answer.status.code, headers["x-extproc-reason"]) == (503, b"draining")


def test_drain_ends_decided_streams_and_no_others() -> None:
    decided, undecided = Bench(), Bench()
    decided.receive(m.request_headers("buffered", end_of_stream=True))
    undecided.receive(m.request_headers("buffered"))
    decided.handler.drain()
    undecided.handler.drain()
    assert (decided.transport.status, undecided.transport.status) == (0, None)


def test_a_drained_stream_ends_as_soon_as_it_is_decided() -> None:
    bench = Bench()
    bench.receive(m.request_headers("buffered"))
    bench.handler.drain()
    assert bench.transport.status is None
    bench.receive(m.request_body(b"{}"))
    assert m.destinations(bench.transport.sent) == ["10.0.0.1:8000"]
    assert bench.transport.status == 0


async def test_a_drained_stream_ends_as_soon_as_a_later_decision_is_there() -> None:
    bench, future = Bench(), await pending()
    bench.outcome = lambda: future
    bench.receive(m.request_headers("buffered", end_of_stream=True))
    bench.handler.drain()
    assert bench.transport.status is None
    future.set_result(bench.decision())
    await asyncio.sleep(0)
    assert m.destinations(bench.transport.sent) == ["10.0.0.1:8000"]
    assert bench.transport.status == 0


def test_a_drained_stream_does_not_end_in_the_middle_of_a_body_that_passes_through() -> None:
    bench = Bench()
    bench.body_needed = False
    bench.receive(m.request_headers("full_duplex"), m.request_body(b"ab", end_of_stream=False))
    bench.handler.drain()
    assert bench.transport.status is None
    bench.receive(m.request_body(b"c"))
    assert m.streamed(bench.transport.sent)[0] == b"abc"
    assert bench.transport.status == 0


async def test_a_drained_stream_ends_in_a_pause_of_the_answer_that_passes_through() -> None:
    bench = Bench()
    bench.receive(m.request_headers("full_duplex", end_of_stream=True), m.response_headers())
    bench.handler.drain()
    assert bench.transport.status is None
    bench.receive(m.response_body(b"chunk", end_of_stream=False))
    assert m.streamed(bench.transport.sent, "response")[0] == b"chunk"
    assert bench.transport.status is None
    await asyncio.wait_for(bench.transport.finished.wait(), 10)
    assert bench.transport.status == 0
    bench.handler.closed()
    assert (bench.in_flight, bench.service.active) == (0, 0)


@pytest.mark.parametrize("last", [m.response_body(b"end"), m.response_trailers()], ids=["body", "trailers"])
async def test_a_drained_stream_ends_with_the_answer_that_passes_through(last: ProcessingRequest) -> None:
    bench = Bench()
    bench.receive(m.request_headers("full_duplex", end_of_stream=True), m.response_headers())
    bench.handler.drain()
    bench.receive(last)
    assert bench.transport.status == 0
    bench.handler.closed()


def test_half_close_ends_the_stream_cleanly() -> None:
    bench = Bench()
    bench.receive(m.request_headers("buffered", end_of_stream=True))
    bench.handler.half_close()
    assert bench.transport.status == 0


async def pending() -> asyncio.Future[Decision]:
    return asyncio.get_running_loop().create_future()


async def test_a_decision_that_comes_later_is_sent_then_even_after_half_close() -> None:
    bench, future = Bench(), await pending()
    bench.outcome = lambda: future
    bench.receive(m.request_headers("full_duplex"), m.request_body(b"{}"))
    bench.handler.half_close()
    assert (bench.transport.sent, bench.transport.status) == ([], None)
    future.set_result(bench.decision())
    await asyncio.sleep(0)
    assert m.destinations(bench.transport.sent) == ["10.0.0.1:8000"]
    assert bench.transport.status == 0
    bench.handler.closed()
    assert bench.in_flight == 0


@pytest.mark.parametrize(("fault", "outcome"), [(NoEndpoint("later"), "no_endpoint"), (ZeroDivisionError(), "open")])
async def test_a_fault_that_comes_later_is_answered_then(fault: BaseException, outcome: str) -> None:
    bench, future = Bench(), await pending()
    bench.outcome = lambda: future
    bench.receive(m.request_headers("buffered", end_of_stream=True))
    future.set_exception(fault)
    await asyncio.sleep(0)
    assert bench.count(outcome) == 1


async def test_a_decision_that_takes_too_long_is_answered_503() -> None:
    bench, future = Bench(timeout_secs=0.01), await pending()
    bench.outcome = lambda: future
    bench.receive(m.request_headers("buffered", end_of_stream=True))
    await asyncio.wait_for(bench.transport.finished.wait(), 10)
    assert bench.transport.answer.status.code == 503
    assert bench.count("decision_timeout") == 1
    assert future.cancelled()


async def test_a_body_that_grows_too_large_while_deciding_is_answered_once() -> None:
    bench, future = Bench(), await pending()
    bench.body_needed = False
    bench.outcome = lambda: future
    bench.receive(m.request_headers("full_duplex"), m.request_body(bytes(33 << 20), end_of_stream=False))
    assert bench.transport.answer.status.code == 413
    assert future.cancelled()
    await asyncio.sleep(0)
    assert (bench.count("body_too_large"), bench.count("routed"), bench.count("open")) == (1, 0, 0)


async def test_a_stream_that_ends_while_deciding_leaks_nothing() -> None:
    """The decision is made in a way that its cancellation comes too late."""
    bench, future = Bench(), await pending()
    bench.outcome = lambda: future
    bench.receive(m.request_headers("buffered", end_of_stream=True))
    future.set_result(bench.decision())
    bench.handler.closed()
    await asyncio.sleep(0)
    assert (bench.in_flight, bench.service.active) == (0, 0)


@pytest.mark.parametrize("steps", range(5))
def test_closing_after_any_step_returns_every_count_to_zero(steps: int) -> None:
    bench = Bench()
    script = [
        m.request_headers("full_duplex"),
        m.request_body(b"{", end_of_stream=False),
        m.request_body(b"}"),
        m.response_headers(),
    ]
    bench.receive(*script[:steps])
    bench.handler.closed()
    assert (bench.in_flight, bench.service.active) == (0, 0)


def test_refusals_state_a_status_and_a_reason_of_their_own() -> None:
    classes = Refusal.__subclasses__()
    assert len({kind.reason for kind in classes}) == len(classes)
    assert all(400 <= kind.status < 600 for kind in classes)


@pytest.mark.parametrize(
    ("message", "failures"),
    [
        (served_by("10.0.0.1:8000"), 0),
        (served_by("10.0.0.1:8000", status="503"), 1),
        (served_by("10.0.0.2:8000"), 1),
        (served_by(""), 0),
        (served_by("10.0.0.1:8000", status="abc"), 0),
    ],
    ids=["served", "failed", "another served", "not said", "no status"],
)
def test_the_response_headers_tell_how_the_worker_did(message: ProcessingRequest, failures: int) -> None:
    bench = Bench()
    bench.receive(m.request_headers("buffered"), m.request_body(b"{}"), message)
    assert bench.shared.table.outcomes[1, OutcomeNumber.FAILURES] == failures
    bench.handler.closed()
    assert bench.in_flight == 0


def test_a_stream_that_may_end_before_its_answer_stays_in_flight_for_a_while() -> None:
    bench = Bench(streams_last=False)
    bench.body_needed = False
    bench.receive(m.request_headers("pipelined"), m.response_headers())
    bench.handler.closed()
    assert bench.in_flight == 1
    bench.shared.clock.advance(600)
    bench.accounts.sweep()
    assert bench.in_flight == 0
