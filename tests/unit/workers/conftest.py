"""A worker that the tests of one module share, back to normal before each."""

from collections.abc import Iterator

import pytest

from tests.support.simulated_worker import SimulatedWorker


@pytest.fixture(scope="module")
def shared_worker() -> Iterator[SimulatedWorker]:
    flags = ("--name", "w1", "--model", "tiny", "--model", "alias", "--ttft-secs", "0", "--token-secs", "0")
    with SimulatedWorker.start(*flags) as worker:
        yield worker


@pytest.fixture
def worker(shared_worker: SimulatedWorker) -> SimulatedWorker:
    shared_worker.behave()
    shared_worker.wait_for_requests(lambda shown: shown["in_flight"] == 0)
    shared_worker.forget_requests()
    return shared_worker
