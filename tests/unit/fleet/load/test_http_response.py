from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.fleet.load.http_response import MAX_HEAD_BYTES, MAX_INFORMATIONAL, HttpResponse, ResponseReader

LIMIT = 1000


def read(*pieces: bytes, ends: bool = False, limit: int = LIMIT) -> HttpResponse | None:
    """What a reader says of these pieces; an answer must not come before the last one."""
    reader = ResponseReader(max_body_bytes=limit)
    *early, last = pieces
    assert [reader.feed(piece) for piece in early] == [None] * len(early)
    response = reader.feed(last)
    return reader.end() if ends and response is None else response


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
WHOLE = [
    (OK + b"Content-Length: 3\r\n\r\nabc", HttpResponse(200, b"abc", reusable=True)),
    (OK + b"content-length:3\r\ncontent-length: 3\r\n\r\nabc", HttpResponse(200, b"abc", reusable=True)),
    (OK + b"Content-Length: 0\r\n\r\n", HttpResponse(200, b"", reusable=True)),
    (OK + b"Connection: Close\r\nContent-Length: 3\r\n\r\nabc", HttpResponse(200, b"abc", reusable=False)),
    (OK + b"Connection: x, close\r\nContent-Length: 3\r\n\r\nabc", HttpResponse(200, b"abc", reusable=False)),
    (b"HTTP/1.0 404 x\r\nContent-Length: 3\r\n\r\nabc", HttpResponse(404, b"abc", reusable=False)),
    (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc",
        HttpResponse(200, b"abc", reusable=True),
    ),
    (b"HTTP/1.1 204 No Content\r\n\r\n", HttpResponse(204, b"", reusable=True)),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", HttpResponse(304, b"", reusable=True)),
    (CHUNKED + b"3\r\nabc\r\n02;x=y\r\nde\r\n0\r\n\r\n", HttpResponse(200, b"abcde", reusable=True)),
    (CHUNKED + b"A\r\n0123456789\r\n0\r\nX: y\r\nZ: 1\r\n\r\n", HttpResponse(200, b"0123456789", reusable=True)),
    (
        OK + b"Content-Length: 9\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        HttpResponse(200, b"abc", reusable=False),
    ),
    (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        + OK
        + b"Content-Length: 1\r\n\r\na",
        HttpResponse(200, b"a", reusable=True),
    ),
    (OK + b"Content-Encoding: identity\r\nContent-Length: 1\r\n\r\na", HttpResponse(200, b"a", reusable=True)),
]


@pytest.mark.parametrize(("text", "response"), WHOLE)
def test_reads_a_response_however_it_is_framed_and_cut(text: bytes, response: HttpResponse) -> None:
    assert read(text) == response
    assert read(*(bytes([byte]) for byte in text)) == response


@given(st.sampled_from(WHOLE), st.lists(st.integers(0, 200), max_size=5))
def test_where_the_bytes_are_cut_makes_no_difference(case: tuple[bytes, HttpResponse], cuts: list[int]) -> None:
    text, response = case
    edges = [0, *sorted(min(cut, len(text) - 1) for cut in cuts), len(text)]
    assert read(*(text[start:end] for start, end in pairwise(edges))) == response


@pytest.mark.parametrize("body", [b"", b"abc", b"x" * LIMIT])
def test_without_a_length_the_body_goes_on_to_the_end_of_the_connection(body: bytes) -> None:
    assert read(OK + b"\r\n", body, ends=True) == HttpResponse(200, body, reusable=False)


def test_what_follows_a_response_makes_the_connection_useless() -> None:
    assert read(OK + b"Content-Length: 1\r\n\r\nabc") == HttpResponse(200, b"a", reusable=False)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        OK,
        OK + b"Content-Length: 3\r\n\r\nab",
        CHUNKED + b"3\r\nabc\r\n",
        CHUNKED + b"0\r\n",
        b"HTTP/1.1 100 C\r\n\r\n",
    ],
)
def test_a_connection_that_ends_too_early_is_a_connection_error(text: bytes) -> None:
    with pytest.raises(ConnectionError, match="ended before"):
        read(text, ends=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
        (b"x" * 1025, "not HTTP"),
        (b"HTTP/2 200 OK\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "switches protocols"),
        (b"HTTP/1.1 100 C\r\n\r\n" * (MAX_INFORMATIONAL + 1), "informational"),
        (OK + b"X: " + b"y" * MAX_HEAD_BYTES + b"\r\n\r\n", "too long"),
        (OK + b"X: " + b"y" * MAX_HEAD_BYTES, "too long"),
        (OK + b"no colon\r\n\r\n", "without a name"),
        (OK + b": nameless\r\n\r\n", "without a name"),
        (OK + b"Content-Length : 3\r\n\r\nabc", "without a name"),
        (OK + b"Content-Length: -1\r\n\r\n", "no number"),
        (OK + b"Content-Length: 3, 3\r\n\r\nabc", "no number"),
        (OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", "no number"),
        (OK + b"Content-Length: 1001\r\n\r\n", "larger than 1,000"),
        (OK + b"Content-Length: 999999999999999999\r\n\r\n", "larger than 1,000"),
        (OK + b"\r\n" + b"x" * 1001, "larger than 1,000"),
        (CHUNKED + b"3E9\r\n", "larger than 1,000"),
        (CHUNKED + b"3e8\r\n" + b"x" * 1000 + b"\r\n1\r\n", "larger than 1,000"),
        (CHUNKED + b"\r\n", "without a size"),
        (CHUNKED + b"0x3\r\nabc", "without a size"),
        (CHUNKED + b"123456789\r\n", "without a size"),
        (CHUNKED + b"1" * 2000, "too long"),
        (CHUNKED + b"3\r\nabcd\r\n", "does not end"),
        (CHUNKED + b"0\r\n" + b"X: y\r\n" * 4000, "trailers"),
        (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n", "unknown transfer coding"),
        (OK + b"Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\na", "compressed"),
    ],
)
def test_what_is_wrong_or_too_large_is_a_value_error(text: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read(text)


TOKENS = st.sampled_from(
    [OK, CHUNKED, b"\r\n", b"\r\n\r\n", b"Content-Length: ", b"3", b"0", b"abc", b":", b"HTTP/1.1 100 C\r\n\r\n", b"\n"]
)


@given(st.lists(TOKENS | st.binary(max_size=4)))
def test_whatever_comes_only_the_documented_errors_are_raised(pieces: list[bytes]) -> None:
    reader = ResponseReader(max_body_bytes=LIMIT)
    try:
        for piece in pieces:
            if reader.feed(piece) is not None:
                return
        reader.end()
    except (ValueError, ConnectionError):
        pass
