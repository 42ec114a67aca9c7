import os
import socket
from pathlib import Path

import pytest

from extproc.config.address import TcpAddress, UnixAddress
from extproc.server.listening import listen_on


def test_any_free_port_is_told() -> None:
    listening = listen_on(TcpAddress("127.0.0.1", 0))
    assert isinstance(listening.address, TcpAddress)
    assert listening.address.port == listening.socket.getsockname()[1] > 0
    assert not listening.socket.getblocking()
    listening.close()


def test_two_may_listen_on_one_port() -> None:
    first = listen_on(TcpAddress("127.0.0.1", 0))
    second = listen_on(first.address)
    first.close()
    second.close()


def test_a_socket_file_is_taken_over_and_only_its_last_owner_removes_it(tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "router.sock"))
    old = listen_on(address)
    early = socket.socket(socket.AF_UNIX)
    early.connect(address.path)
    new = listen_on(address)
    late = socket.socket(socket.AF_UNIX)
    late.connect(address.path)
    for listening in (old, new):
        connection, _ = listening.socket.accept()
        connection.close()
    old.close()
    assert [path.name for path in tmp_path.iterdir()] == ["router.sock"]
    new.close()
    assert list(tmp_path.iterdir()) == []
    early.close()
    late.close()


def test_a_left_over_of_a_process_with_our_id_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / f".{os.getpid()}.sock").touch()
    listen_on(UnixAddress(str(tmp_path / "router.sock"))).close()
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_taken_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "router.sock").mkdir()
    with pytest.raises(OSError, match=r"."):
        listen_on(UnixAddress(str(tmp_path / "router.sock")))
    assert [path.name for path in tmp_path.iterdir()] == ["router.sock"]


def test_a_directory_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        listen_on(UnixAddress(str(tmp_path / "missing" / "router.sock")))
