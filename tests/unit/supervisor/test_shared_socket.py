import socket

import pytest

from extproc.errors import StartupError
from extproc.supervisor.shared_socket import bind


def test_listens_without_blocking() -> None:
    with bind("127.0.0.1:0") as listening:
        assert not listening.getblocking()
        with pytest.raises(BlockingIOError):
            listening.accept()
        with socket.create_connection(listening.getsockname()):
            pass


def test_is_not_inherited_unless_passed() -> None:
    with bind("127.0.0.1:0") as listening:
        assert not listening.get_inheritable()


def test_a_name_is_looked_up() -> None:
    with bind("localhost:0") as listening:
        assert listening.getsockname()[0] in ("127.0.0.1", "::1")


def test_an_address_in_use_cannot_start() -> None:
    with bind("127.0.0.1:0") as taken, pytest.raises(StartupError, match="cannot listen on"):
        bind(f"127.0.0.1:{taken.getsockname()[1]}")


@pytest.mark.parametrize("text", ["unix:/tmp/shared.sock", "nonsense", "127.0.0.1:99999", "host name:80"])
def test_what_is_no_tcp_address_cannot_start(text: str) -> None:
    with pytest.raises(StartupError, match=r"server\.shared_address"):
        bind(text)
