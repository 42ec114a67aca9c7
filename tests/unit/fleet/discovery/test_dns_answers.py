import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.fleet.discovery.dns_answers import AnswerTracker, Failed, Found, Nothing, Outcome, TtlBounds
from extproc.fleet.discovery.retry import Retry

TTL = TtlBounds(1.0, 300.0)
RETRY = Retry(2.0, 10.0)
AB, C = frozenset("ab"), frozenset("c")
FAILED = Failed("timeout", "no answer")


def tracker() -> AnswerTracker[str]:
    return AnswerTracker(ttl=TTL, retry=RETRY)


def after(*outcomes: Outcome[str]) -> AnswerTracker[str]:
    made = tracker()
    for outcome in outcomes:
        made.take(outcome)
    return made


@pytest.mark.parametrize(
    ("ttl", "wait_secs"), [(0, 1.0), (0.5, 1.0), (1, 1.0), (42, 42.0), (300, 300.0), (9999, 300.0)]
)
def test_an_answer_is_kept_for_its_ttl_within_the_bounds(ttl: float, wait_secs: float) -> None:
    assert tracker().take(Found(AB, ttl)) == wait_secs
    assert tracker().take(Nothing(ttl)) == wait_secs


def test_each_answer_replaces_the_one_before() -> None:
    assert after(Found(AB, 1), Found(C, 1)).records == C


def test_failures_keep_what_is_known_and_are_retried_with_growing_waits() -> None:
    known = after(Found(AB, 60))
    assert [known.take(FAILED) for _ in range(5)] == [2.0, 4.0, 8.0, 10.0, 10.0]
    assert known.records == AB
    assert known.take(Found(C, 60)) == 60
    assert known.take(FAILED) == 2.0


def test_nothing_counts_when_it_is_confirmed() -> None:
    known = after(Found(AB, 60), Nothing(5))
    assert known.records == AB
    known.take(Nothing(5))
    assert known.records == frozenset()


def test_a_failure_between_two_answers_of_nothing_does_not_matter() -> None:
    assert after(Found(AB, 60), Nothing(5), FAILED, Nothing(5)).records == frozenset()


def test_records_between_two_answers_of_nothing_begin_the_doubt_anew() -> None:
    assert after(Found(AB, 60), Nothing(5), Found(C, 60), Nothing(5)).records == C


@pytest.mark.parametrize(
    ("outcomes", "asked", "certain"),
    [
        ((), False, False),
        ((FAILED,), True, False),
        ((Nothing(5),), True, False),
        ((Nothing(5), Nothing(5)), True, True),
        ((Found(AB, 5),), True, True),
        ((Found(AB, 5), FAILED), True, True),
    ],
)
def test_says_what_it_is_certain_of(outcomes: tuple[Outcome[str], ...], asked: bool, certain: bool) -> None:
    made = after(*outcomes)
    assert (made.asked, made.certain) == (asked, certain)


outcomes = st.one_of(
    st.builds(Found, st.frozensets(st.sampled_from("abc"), min_size=1), st.floats(0, 1e6)),
    st.builds(Nothing, st.floats(0, 1e6)),
    st.just(FAILED),
)


@given(st.lists(outcomes, max_size=20))
def test_records_are_the_last_found_unless_two_good_answers_since_say_nothing(history: list[Outcome[str]]) -> None:
    made = after(*history)
    good = [outcome for outcome in history if not isinstance(outcome, Failed)]
    trailing = 0
    while good and isinstance(good[-1], Nothing):
        good.pop()
        trailing += 1
    last = good[-1].records if good and isinstance(good[-1], Found) else frozenset()
    assert made.records == (frozenset() if trailing >= 2 else last)


@given(st.lists(outcomes, min_size=1, max_size=20))
def test_no_wait_is_shorter_or_longer_than_configured(history: list[Outcome[str]]) -> None:
    made = tracker()
    for outcome in history:
        wait_secs = made.take(outcome)
        assert (2.0 <= wait_secs <= 10.0) if isinstance(outcome, Failed) else (1.0 <= wait_secs <= 300.0)
