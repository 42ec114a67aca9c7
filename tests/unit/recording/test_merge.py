"""Parts become one trace: in order, with small ids, and with what is missing counted."""

import struct
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from extproc.recording.merge import Contents, TraceLine, read_contents, trace_lines
from extproc.recording.record import Closing
from tests.support.recordings import part, recorded


def hashes(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def merged(*parts: bytes) -> list[TraceLine]:
    return list(trace_lines(parts, read_contents(parts)))


def test_requests_of_all_parts_stand_in_the_order_of_their_arrival() -> None:
    one = part(recorded(5.0, worker="a"), recorded(9.25, worker="b"), Closing(0))
    two = part(recorded(4.5, worker="c"), recorded(5.5, worker="d"), Closing(0))
    lines = merged(one, two)
    assert [(line.timestamp, line.worker) for line in lines] == [(0, "c"), (500, "a"), (1000, "d"), (4750, "b")]


def test_everything_that_is_recorded_stands_in_the_line() -> None:
    one = recorded(
        3.0,
        lasted=1.2345,
        input_length=700,
        input_from="tokens",
        output_length=12,
        output_from="time",
        hashes=hashes(5, 6),
        tail=True,
        model="qwen",
        worker="w1",
        served="w2",
        status=200,
        policy="cache_aware",
        reason="prefix_match",
        matched_tokens=512,
    )
    assert merged(part(one)) == [
        TraceLine(
            timestamp=0,
            input_length=700,
            output_length=12,
            hash_ids=[0, 1],
            model="qwen",
            worker="w1",
            policy="cache_aware",
            reason="prefix_match",
            matched_tokens=512,
            ended_ms=1234,
            served="w2",
            status=200,
            input_from="tokens",
            output_from="time",
        )
    ]


def test_what_is_not_known_is_null() -> None:
    (line,) = merged(part(recorded()))
    assert (line.model, line.served, line.status, line.ended_ms, line.matched_tokens) == (None,) * 5


def test_equal_hashes_have_equal_ids_across_parts_and_tails_only_where_the_length_is_equal_too() -> None:
    known = {"input_length": 1100, "hashes": hashes(1, 2, 3), "tail": True}
    one = part(recorded(1.0, **known), recorded(3.0, input_length=1200, hashes=hashes(1, 2, 3), tail=True))
    two = part(recorded(2.0, **known), recorded(4.0, input_length=1024, hashes=hashes(1, 9)))
    assert [line.hash_ids for line in merged(one, two)] == [[0, 1, 2], [0, 1, 2], [0, 1, 3], [0, 4]]


def test_prompts_that_are_not_known_share_nothing() -> None:
    lines = merged(part(recorded(1.0, input_length=1025), recorded(2.0, input_length=1025)))
    assert [line.hash_ids for line in lines] == [[0, 1, 2], [3, 4, 5]]


def test_what_is_torn_unfinished_or_left_out_is_counted() -> None:
    finished = part(recorded(1.0), Closing(3))
    torn = part(recorded(2.0), recorded(3.0))[:-1]
    contents = read_contents([finished, torn, b""])
    assert contents[1:] == Contents([], torn=1, unfinished=2, left_out=3)[1:]
    assert len(contents.places) == 2


def test_no_part_is_an_empty_trace() -> None:
    assert merged() == []


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.floats(0, 100),
            st.integers(1, 4000),
            st.lists(st.integers(0, 5), max_size=9),
            st.booleans(),
        ),
        max_size=20,
    )
)
def test_every_line_has_an_id_for_each_block_begun_counted_up_as_they_come(
    requests: list[tuple[int, float, int, list[int], bool]],
) -> None:
    parts = [
        part(
            *[
                recorded(arrived, input_length=length, hashes=hashes(*known), tail=tail)
                for number, arrived, length, known, tail in requests
                if number == which
            ]
        )
        for which in range(3)
    ]
    lines = merged(*parts)
    assert len(lines) == len(requests)
    assert all(one.timestamp <= two.timestamp for one, two in pairwise(lines))
    seen = 0
    for line in lines:
        assert len(line.hash_ids) == -(-line.input_length // 512)
        for one in line.hash_ids:
            assert one <= seen
            seen = max(seen, one + 1)
