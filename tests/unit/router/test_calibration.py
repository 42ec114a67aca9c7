"""Which requests are compared, and what becomes of the comparison."""

import random

import pytest

from extproc.fleet.precision import Precisions
from extproc.policies.base import Reason
from extproc.router.calibration import MAX_OPEN, Calibration, Sample
from extproc.routing.decision import Decision
from extproc.shm.worker_table import Outcome
from extproc.stream.exchange import Answer
from extproc.stream.usage_tail import Usage
from extproc.telemetry.metrics import Metrics
from tests.support.fleets import Shared, prompt, worker

TOKENS = 160
PROMPTS = (prompt(TOKENS),)
GOOD = Answer(200, worker(1).address, streamed=False)


class Bench:
    """One router's calibration over a table of its own."""

    def __init__(self, share: float = 1.0) -> None:
        self.shared = Shared()
        self.metrics = Metrics()
        self.calibration = Calibration(
            share=share, rng=random.Random(7), precisions=Precisions(self.shared.table), metrics=self.metrics
        )

    def draw(self, predicted: int | None = 64) -> Sample | None:
        return self.calibration.draw(decision(predicted), PROMPTS)

    def compare(self, predicted: int, usage: Usage | None, answer: Answer = GOOD) -> None:
        sample = self.draw(predicted)
        assert sample is not None
        sample.answered(answer)
        sample.end(usage)

    @property
    def results(self) -> dict[str, float]:
        return self._counted("cached_tokens_samples")

    @property
    def tokens(self) -> dict[str, float]:
        return self._counted("cached_tokens")

    @property
    def precision(self) -> tuple[float, float]:
        precision, samples = self.shared.table.outcomes[1, [Outcome.PRECISION, Outcome.PRECISION_SAMPLES]].tolist()
        return precision, samples

    def _counted(self, name: str) -> dict[str, float]:
        found = {}
        for family in getattr(self.metrics, name).collect():
            for sample in family.samples:
                if sample.name.endswith("_total"):
                    assert (sample.labels["worker"], sample.labels["policy"]) == ("w1", "cache_aware")
                    found[sample.labels.get("result") or sample.labels["kind"]] = sample.value
        return found


def decision(predicted: int | None) -> Decision:
    return Decision("10.0.0.1:8000", worker(1), "cache_aware", Reason.PREFIX_MATCH, (), predicted)


@pytest.mark.parametrize(
    ("predicted", "reported", "result"),
    [(64, 64, "equal"), (70, 64, "equal"), (64, 32, "over"), (32, 64, "under"), (0, 0, "equal"), (15, 16, "under")],
)
def test_predictions_are_compared_in_whole_blocks_and_added_up_in_tokens(
    predicted: int, reported: int, result: str
) -> None:
    bench = Bench()
    bench.compare(predicted, Usage(TOKENS, reported))
    assert bench.results == {result: 1}
    assert bench.tokens == {"predicted": predicted, "reported": reported}


def test_the_precision_of_the_worker_is_learned() -> None:
    bench = Bench()
    bench.compare(64, Usage(TOKENS, 32))
    assert bench.precision == (0.5, 1)
    bench.compare(70, Usage(TOKENS, 64))
    assert bench.precision == (0.75, 2)


def test_a_prediction_of_all_is_of_all_that_can_be_cached() -> None:
    """Whoever predicts it: policies that are plugins are not asked to know."""
    bench = Bench()
    bench.compare(TOKENS, Usage(TOKENS, TOKENS - 16))
    assert bench.results == {"equal": 1}
    assert bench.tokens == {"predicted": TOKENS - 16, "reported": TOKENS - 16}


def test_what_another_worker_served_is_dropped() -> None:
    bench = Bench()
    bench.compare(64, Usage(TOKENS, 0), Answer(200, worker(2).address, streamed=False))
    assert (bench.results, bench.tokens, bench.precision) == ({"moved": 1}, {}, (0, 0))


def test_where_nobody_says_who_served_it_is_the_first_choice() -> None:
    bench = Bench()
    bench.compare(64, Usage(TOKENS, 64), Answer(200, "", streamed=True))
    assert bench.results == {"equal": 1}


def test_an_answer_that_does_not_say_is_counted() -> None:
    bench = Bench()
    bench.compare(64, None)
    assert (bench.results, bench.tokens, bench.precision) == ({"absent": 1}, {}, (0, 0))


@pytest.mark.parametrize("status", [0, 404, 503])
def test_an_answer_that_is_no_success_is_no_sample(status: int) -> None:
    bench = Bench()
    bench.compare(64, None, Answer(status, worker(2).address, streamed=False))
    assert bench.results == {}


def test_a_request_that_ends_without_an_answer_is_no_sample() -> None:
    bench = Bench()
    sample = bench.draw()
    assert sample is not None
    sample.end(None)
    assert bench.results == {}


def test_only_what_can_be_compared_is_drawn() -> None:
    bench = Bench()
    assert bench.draw(None) is None, "its policy has not looked"
    for prompts in ((), (prompt(40), prompt(50)), (PROMPTS[0]._replace(exact=False),)):
        assert bench.calibration.draw(decision(0), prompts) is None


def test_the_share_is_drawn() -> None:
    bench = Bench(0.25)
    drawn = 0
    for _ in range(4000):
        sample = bench.draw()
        if sample is not None:
            drawn += 1
            sample.end(None)
    assert 850 < drawn < 1150
    assert Bench(0.0).draw() is None


def test_so_many_are_read_at_a_time_and_no_more() -> None:
    bench = Bench()
    samples = [bench.draw() for _ in range(MAX_OPEN)]
    assert None not in samples
    assert bench.draw() is None
    first = samples[0]
    assert first is not None
    first.end(None)
    assert bench.draw() is not None
    assert bench.draw() is None
