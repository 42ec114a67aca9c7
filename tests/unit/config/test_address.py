import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.config.address import TcpAddress, UnixAddress, parse


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/extproc/router-0.sock", UnixAddress("/run/extproc/router-0.sock")),
        ("unix:relative.sock", UnixAddress("relative.sock")),
        ("unix:/odd:name", UnixAddress("/odd:name")),
        ("127.0.0.1:9000", TcpAddress("127.0.0.1", 9000)),
        ("0.0.0.0:0", TcpAddress("0.0.0.0", 0)),
        ("localhost:65535", TcpAddress("localhost", 65535)),
        ("[::1]:9000", TcpAddress("::1", 9000)),
    ],
)
def test_reads_the_notation_and_writes_it_back(text: str, address: UnixAddress | TcpAddress) -> None:
    assert parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix:",
        "unix:/a\0b",
        "unix:/" + "a" * 107,
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:http",
        "127.0.0.1:-1",
        "127.0.0.1:+1",
        "127.0.0.1:65536",
        "127.0.0.1:٣",
        ":9000",
        "[]:9000",
        "::1:9000",
        "[::1:9000",
        "http://host:9000",
        "a b:9000",
    ],
)
def test_refuses_anything_else_and_quotes_it(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse(text)
    assert repr(text) in str(caught.value)


@given(st.text(max_size=40))
def test_whatever_is_accepted_is_written_back_to_the_same_address(text: str) -> None:
    try:
        address = parse(text)
    except ValueError:
        return
    assert parse(str(address)) == address


@pytest.mark.parametrize(
    ("host", "numeric"), [("10.0.0.1", True), ("::1", True), ("localhost", False), ("1.2.3", False)]
)
def test_a_host_is_a_number_or_a_name(host: str, numeric: bool) -> None:
    assert TcpAddress(host, 80).is_numeric is numeric
