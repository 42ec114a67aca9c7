"""Answers that are read for what they report: asked for, compared, counted, and let go of."""

import pytest

from extproc.pb.ext_proc_pb2 import STREAMED, ProcessingRequest
from extproc.shm.worker_table import Outcome
from tests.support import messages as m
from tests.support.handlers import Bench, served_by

USAGE = b'{"usage":{"prompt_tokens":160,"prompt_tokens_details":{"cached_tokens":64}}}'


def answers(*chunks: bytes, address: str = "10.0.0.1:8000", status: str = "200") -> list[ProcessingRequest]:
    """A whole exchange, with an answer in chunks."""
    bodies = [m.response_body(chunk, end_of_stream=chunk is chunks[-1]) for chunk in chunks]
    told = served_by(address, status=status, content_type="application/json")
    return [m.request_headers("buffered"), m.request_body(b"{}"), told, *bodies]


def test_a_sampled_answer_is_read_and_compared() -> None:
    bench = Bench(sample_share=1.0)
    bench.predict(64)
    bench.receive(*answers(USAGE[:20], USAGE[20:]))
    reply = m.parse(bench.transport.sent)[2]
    assert reply.mode_override.response_body_mode == STREAMED
    assert reply.response_headers.response.header_mutation.set_headers[0].header.key == "x-extproc-decision"
    bench.handler.closed()
    assert bench.samples("equal") == 1
    assert bench.shared.table.outcomes[1, Outcome.PRECISION] == 1
    assert bench.in_flight == 0


@pytest.mark.parametrize("sample_share", [None, 0.0])
def test_an_answer_that_is_not_sampled_is_not_asked_for(sample_share: float | None) -> None:
    bench = Bench(sample_share=sample_share)
    bench.predict(64)
    bench.receive(*answers())
    assert m.kinds(bench.transport.sent) == ["request_headers", "request_body", "response_headers"]
    assert not any(reply.HasField("mode_override") for reply in m.parse(bench.transport.sent))
    bench.handler.closed()
    assert bench.samples("absent") == 0


def test_a_request_of_whose_prompt_nothing_was_predicted_is_not_sampled() -> None:
    bench = Bench(sample_share=1.0)
    bench.receive(*answers())
    assert not any(reply.HasField("mode_override") for reply in m.parse(bench.transport.sent))


@pytest.mark.parametrize(
    ("messages", "result"),
    [
        (answers(USAGE, address="10.0.0.2:8000"), "moved"),
        (answers(b'{"usage":null}'), "absent"),
        (answers(USAGE[:40])[:-1], "absent"),
    ],
    ids=["another served", "not said", "broken off"],
)
def test_a_sampled_answer_that_cannot_be_compared_is_counted(messages: list[ProcessingRequest], result: str) -> None:
    bench = Bench(sample_share=1.0)
    bench.predict(64)
    bench.receive(*messages)
    bench.handler.closed()
    assert bench.samples(result) == 1
    assert bench.shared.table.outcomes[1, Outcome.PRECISION_SAMPLES] == 0


def test_a_sampled_request_that_fails_is_not_read() -> None:
    bench = Bench(sample_share=1.0)
    bench.predict(64)
    bench.receive(*answers(status="503"))
    assert not any(reply.HasField("mode_override") for reply in m.parse(bench.transport.sent))
    bench.handler.closed()
    assert bench.samples("absent") == 0


async def test_a_draining_router_lets_go_of_an_answer_that_it_reads() -> None:
    bench = Bench(sample_share=1.0)
    bench.predict(64)
    bench.receive(*answers(USAGE[:20], USAGE[20:])[:-1])
    bench.handler.drain()
    assert bench.transport.status == 0
    bench.handler.closed()
    assert bench.samples("absent") == 1
