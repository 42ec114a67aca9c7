import errno
import socket
from collections.abc import Iterator

import pytest

from extproc.server.acceptor import Acceptor
from tests.support.servers import eventually


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0)
        yield listening


def connect(listening: socket.socket) -> socket.socket:
    return socket.create_connection(listening.getsockname(), timeout=5)


class Taken:
    """Takes connections and closes them again."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, connection: socket.socket) -> None:
        assert not connection.getblocking()
        connection.close()
        self.count += 1


async def test_takes_every_connection_of_a_crowd(listening: socket.socket) -> None:
    taken = Taken()
    acceptor = Acceptor(listening=listening, take=taken, exclusive=True)
    crowd = [connect(listening) for _ in range(100)]
    await eventually(lambda: taken.count == 100)
    acceptor.stop()
    for connection in crowd:
        connection.close()


@pytest.mark.parametrize(("exclusive", "expected"), [(True, 5), (False, 0)])
async def test_stopping_takes_what_waits_unless_others_can(
    listening: socket.socket, exclusive: bool, expected: int
) -> None:
    taken = Taken()
    acceptor = Acceptor(listening=listening, take=taken, exclusive=exclusive)
    crowd = [connect(listening) for _ in range(5)]
    acceptor.stop()
    assert taken.count == expected
    for connection in crowd:
        connection.close()


async def test_asks_before_each_connection_and_leaves_it_while_told_to_wait(listening: socket.socket) -> None:
    taken = Taken()
    delays = [0.0, 0.0, 0.01, 0.0]
    asked: list[int] = []

    def delay_secs() -> float:
        asked.append(taken.count)
        return delays.pop(0) if delays else 0.0

    acceptor = Acceptor(listening=listening, take=taken, exclusive=False, delay_secs=delay_secs)
    crowd = [connect(listening) for _ in range(4)]
    await eventually(lambda: taken.count == 4)
    # The third was left once, then taken without asking again: whoever is less loaded has had its chance.
    assert asked[:4] == [0, 1, 2, 3]
    acceptor.stop()
    for connection in crowd:
        connection.close()


async def test_a_connection_that_somebody_else_took_meanwhile_is_no_fault(listening: socket.socket) -> None:
    taken = Taken()
    asked: list[int] = []

    def delay_secs() -> float:
        asked.append(taken.count)
        return 0.01

    acceptor = Acceptor(listening=listening, take=taken, exclusive=False, delay_secs=delay_secs)
    stolen = connect(listening)
    await eventually(lambda: bool(asked))
    somebody_elses, _ = listening.accept()
    second = connect(listening)
    await eventually(lambda: taken.count == 1)
    acceptor.stop()
    for connection in (stolen, somebody_elses, second):
        connection.close()


class ExhaustedSocket(socket.socket):
    """A listening socket of a process that has no descriptor left, at the first try."""

    tries = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.tries += 1
        if self.tries <= 1:
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_goes_on_when_descriptors_are_free_again(caplog: pytest.LogCaptureFixture) -> None:
    with ExhaustedSocket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(0)
        taken = Taken()
        acceptor = Acceptor(listening=listening, take=taken, exclusive=True)
        connection = connect(listening)
        await eventually(lambda: taken.count == 1)
        assert "Too many open files" in caplog.text
        acceptor.stop()
        connection.close()
