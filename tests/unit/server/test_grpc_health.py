"""The board; its two RPCs are asked over the wire in test_base."""

import pytest

from extproc.server.grpc_health import NOT_SERVING, SERVING, HealthBoard, WatchHandler


class Recorder:
    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.finished: list[int] = []

    def send(self, message: bytes) -> None:
        self.sent.append(message)

    def finish(self, status: int = 0, detail: str = "") -> None:
        self.finished.append(status)


def test_starts_not_ready_but_alive() -> None:
    board = HealthBoard()
    assert not board.ready
    assert board.status("readiness") == NOT_SERVING
    assert board.status("liveness") == SERVING
    assert board.status("nobody") is None


def test_tells_subscribers_of_changes_only() -> None:
    board = HealthBoard()
    told: list[bool] = []
    unsubscribe = board.subscribe(lambda: told.append(board.ready))
    for ready in (False, True, True, False):
        board.set_ready(ready)
    unsubscribe()
    unsubscribe()
    board.set_ready(True)
    assert told == [True, False]


def test_a_watch_leaves_the_board_when_it_is_closed() -> None:
    board, responder = HealthBoard(), Recorder()
    handler = WatchHandler(board, responder)
    handler.receive(b"")
    assert len(responder.sent) == 1
    handler.closed()
    board.set_ready(True)
    assert len(responder.sent) == 1


@pytest.mark.parametrize("message", [b"\xff\xff", b"\x0a\x05ab"])
def test_a_watch_survives_what_is_no_question(message: bytes) -> None:
    board, responder = HealthBoard(), Recorder()
    handler = WatchHandler(board, responder)
    handler.receive(message)
    assert responder.sent == [b"\x08\x03"]
    handler.closed()


def test_a_watch_that_asked_nothing_is_ended() -> None:
    responder = Recorder()
    handler = WatchHandler(HealthBoard(), responder)
    handler.half_close()
    handler.closed()
    assert responder.finished == [13]
