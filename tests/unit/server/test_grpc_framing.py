from collections.abc import Sequence
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.server.grpc_framing import (
    FramingError,
    MessageReader,
    Status,
    frame,
    is_one_message,
    percent_encoded,
    trailers,
)

LIMIT = 1000
messages = st.lists(st.binary(max_size=60), max_size=12)


def read_all(reader: MessageReader, pieces: Sequence[bytes]) -> list[bytes]:
    return [message for piece in pieces for message in reader.feed(piece)]


@given(messages, st.data())
def test_messages_do_not_depend_on_how_the_bytes_are_cut(sent: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(map(frame, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=30)))
    pieces = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    reader = MessageReader(LIMIT)
    assert read_all(reader, pieces) == sent
    assert not reader


@given(messages, st.binary(min_size=1, max_size=60), st.data())
def test_a_message_that_has_begun_is_known(sent: list[bytes], last: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(frame(last)) - 1))
    reader = MessageReader(LIMIT)
    assert read_all(reader, [b"".join(map(frame, sent)) + frame(last)[:cut]]) == sent
    assert reader
    assert read_all(reader, [frame(last)[cut:]]) == [last]
    assert not reader


@given(st.binary(max_size=40))
def test_one_whole_message_is_recognised(message: bytes) -> None:
    assert is_one_message(frame(message))
    assert not is_one_message(frame(message) + b"\0")
    assert not is_one_message(b"\1" + frame(message)[1:])


@given(st.binary(min_size=1, max_size=40), st.data())
def test_part_of_a_message_is_not_taken_for_one(message: bytes, data: st.DataObject) -> None:
    assert not is_one_message(frame(message)[: data.draw(st.integers(1, len(message) + 4))])


def test_a_compressed_message_is_refused() -> None:
    reader = MessageReader(LIMIT)
    with pytest.raises(FramingError) as caught:
        read_all(reader, [frame(b"fine") + b"\1\0\0\0\1x"])
    assert caught.value.status is Status.UNIMPLEMENTED


def test_a_message_over_the_limit_is_refused_before_its_bytes_come() -> None:
    assert read_all(MessageReader(LIMIT), [frame(b"x" * LIMIT)]) == [b"x" * LIMIT]
    with pytest.raises(FramingError, match="1001 bytes") as caught:
        read_all(MessageReader(LIMIT), [frame(b"x" * (LIMIT + 1))[:5]])
    assert caught.value.status is Status.RESOURCE_EXHAUSTED


@pytest.mark.timeout(60)
def test_a_long_message_in_many_small_pieces_is_gathered_in_linear_time() -> None:
    """Joining the pieces one by one would copy terabytes here, and not end."""
    size = 64 << 20
    reader = MessageReader(1 << 30)
    pieces = [b"\0" + size.to_bytes(4, "big"), *[b"x" * 1024] * (size // 1024)]
    assert [len(message) for message in read_all(reader, pieces)] == [size]


@given(st.text(max_size=100))
def test_details_survive_their_encoding(detail: str) -> None:
    encoded = percent_encoded(detail)
    assert all(0x20 <= byte < 0x7F for byte in encoded)
    assert unquote(encoded.decode()) == detail.encode("utf-8", "replace").decode()


def test_long_details_are_cut() -> None:
    assert len(percent_encoded("ü" * 10_000)) <= 3 * 1024


def test_trailers_carry_status_and_detail() -> None:
    assert trailers(0, "ignored") == ((b"grpc-status", b"0"),)
    assert trailers(12, "") == ((b"grpc-status", b"12"),)
    assert trailers(5, "no\nsuch") == ((b"grpc-status", b"5"), (b"grpc-message", b"no%0Asuch"))
