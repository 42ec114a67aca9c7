import pytest

from extproc.fleet.worker_http import get_request, read_status, split_address


@pytest.mark.parametrize(
    ("address", "parts"), [("10.0.0.1:80", ("10.0.0.1", 80)), ("[::1]:8000", ("::1", 8000)), ("host:1", ("host", 1))]
)
def test_an_address_is_host_and_port(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


def test_a_request_is_whole_and_says_whether_the_connection_stays() -> None:
    assert get_request(host="::1", port=8000, path="/a?b") == (
        b"GET /a?b HTTP/1.1\r\nHost: [::1]:8000\r\nConnection: close\r\nAccept: */*\r\n\r\n"
    )
    assert get_request(host="10.0.0.1", port=80, path="/", keep=True, accept="text/plain") == (
        b"GET / HTTP/1.1\r\nHost: 10.0.0.1:80\r\nAccept: text/plain\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("start", "read"),
    [
        (b"HTTP/1.1 200 OK\r\n", (1, 200)),
        (b"HTTP/1.0 503 Service Unavailable\r\nx", (0, 503)),
        (b"HTTP/1.1 204\r\n", (1, 204)),
        (b"HTTP/1.1 204\n", (1, 204)),
    ],
)
def test_a_status_line_has_a_version_and_a_status(start: bytes, read: tuple[int, int]) -> None:
    assert read_status(start) == read


@pytest.mark.parametrize(
    "start", [b"", b"HTTP/1.1 20", b"HTTP/2 200\r\n", b"HTTP/1.1 600 x\r\n", b" HTTP/1.1 200 OK\r\n"]
)
def test_anything_else_is_not_http(start: bytes) -> None:
    with pytest.raises(ValueError, match="not HTTP"):
        read_status(start)
