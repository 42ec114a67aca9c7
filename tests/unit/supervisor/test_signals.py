import os
import signal

from extproc.supervisor.signals import SignalQueue


def test_signals_come_out_in_order_and_their_handlers_return_afterwards() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with SignalQueue((signal.SIGUSR1, signal.SIGUSR2)) as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.wait(10) == [signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1]
    assert signal.getsignal(signal.SIGUSR1) is before


def test_nothing_comes_out_when_the_time_is_over() -> None:
    with SignalQueue((signal.SIGUSR1,)) as signals:
        assert signals.wait(0.001) == []


def test_a_flood_of_signals_never_blocks_and_is_merged() -> None:
    with SignalQueue((signal.SIGUSR1,)) as signals:
        for _ in range(2000):
            signal.raise_signal(signal.SIGUSR1)
        taken = 0
        while found := signals.wait(0):
            assert set(found) == {signal.SIGUSR1}
            taken += len(found)
        assert 0 < taken <= 2000
