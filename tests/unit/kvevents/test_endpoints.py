import pytest

from extproc.kvevents.endpoints import fault_of_told


@pytest.mark.parametrize(
    ("endpoint", "host", "replays"),
    [
        ("tcp://*:5557", "10.0.0.1", False),
        ("tcp://0.0.0.0:5558", "10.0.0.1", True),
        ("tcp://[::]:5558", "fd00::1", True),
        ("tcp://10.0.0.1:5558", "10.0.0.1", True),
        ("tcp://localhost:5558", "127.0.0.1", True),
        ("tcp://127.0.0.1:5557", "127.0.0.1", False),
        ("tcp://127.0.0.1:5557", "10.0.0.1", False),
        ("ipc:///run/kv", "127.0.0.1", False),
    ],
)
def test_an_engine_is_taken_at_its_word_about_its_own_host(endpoint: str, host: str, replays: bool) -> None:
    assert fault_of_told(endpoint, host=host, replays=replays) == ""


@pytest.mark.parametrize(
    ("endpoint", "host", "replays", "why"),
    [
        ("tcp://0.0.0.1:5557", "10.0.0.1", False, "bound only where"),
        ("tcp://10.0.0.9:5557", "10.0.0.1", False, "bound only where"),
        ("tcp://router.example:5557", "10.0.0.1", False, "bound only where"),
        ("tcp://10.1.1.1:6379", "10.0.0.1", True, "own host"),
        ("tcp://127.0.0.1:6379", "10.0.0.1", True, "own host"),
        ("tcp://[fd00::2]:5557", "fd00::1", False, "own host"),
    ],
)
def test_it_is_not_where_that_would_be_somebody_elses(endpoint: str, host: str, replays: bool, why: str) -> None:
    assert why in fault_of_told(endpoint, host=host, replays=replays)
