import pytest

from extproc.dataplane.addresses import dial_address, listen_address
from extproc.errors import ConfigurationError


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("0.0.0.0:8080", ("0.0.0.0", 8080)),
        ("[::1]:80", ("::1", 80)),
        ("localhost:80", ("127.0.0.1", 80)),
    ],
)
def test_envoy_listens_where_the_setting_says(address: str, expected: tuple[str, int]) -> None:
    socket_address = listen_address(address, setting="x").socket_address
    assert socket_address is not None
    assert (socket_address.address, socket_address.port_value) == expected


@pytest.mark.parametrize(
    ("address", "expected"), [("10.0.0.1:1", "10.0.0.1"), ("0.0.0.0:1", "127.0.0.1"), ("[::]:1", "::1")]
)
def test_envoy_dials_loopback_when_a_router_listens_everywhere(address: str, expected: str) -> None:
    socket_address = dial_address(address, setting="x").socket_address
    assert socket_address is not None
    assert socket_address.address == expected


def test_a_unix_socket_is_a_pipe() -> None:
    pipe = dial_address("unix:/run/a:b.sock", setting="x").pipe
    assert pipe is not None
    assert pipe.path == "/run/a:b.sock"


@pytest.mark.parametrize("address", ["example.com:80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", ""])
def test_what_envoy_cannot_use_is_refused_under_the_name_of_its_setting(address: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^server\.somewhere: "):
        listen_address(address, setting="server.somewhere")
