import random
from collections import Counter
from collections.abc import Iterable

import pytest

from extproc.config.policies import BucketSettings, PolicyParameters
from extproc.fleet.candidates import Candidates
from extproc.policies.base import Choice, Reason
from extproc.policies.bucket import Bucket
from tests.support.fleets import Shared, candidates, prompt, request_with

INTERVAL_SECS = 5.0


def policy_with(shared: Shared, *, slot: int = 0, settings: BucketSettings | None = None) -> Bucket:
    return Bucket(shared.context(process_slot=slot, parameters=PolicyParameters(bucket=settings or BucketSettings())))


def ask(policy: Bucket, everyone: Candidates, tokens: int) -> Choice:
    """Ask about a prompt of which only the length is known, in bytes."""
    return policy.choose(request_with(headers={"content-length": str(4 * tokens)}), everyone)


def ids(choice: Choice) -> list[str]:
    return [worker.id for worker in choice.workers]


def ranges(policy: Bucket, everyone: Candidates, lengths: Iterable[int]) -> list[str]:
    choices = [ask(policy, everyone, tokens) for tokens in lengths]
    assert {choice.reason for choice in choices} == {Reason.LENGTH_RANGE}
    return [ids(choice)[0] for choice in choices]


def tokens_by_worker(policy: Bucket, everyone: Candidates, lengths: list[int]) -> Counter[str]:
    sent: Counter[str] = Counter()
    for worker, tokens in zip(ranges(policy, everyone, lengths), lengths, strict=True):
        sent[worker] += tokens
    return sent


def short_lengths(seed: int) -> list[int]:
    """Four thousand questions, all far shorter than what is expected before anything is seen."""
    draw = random.Random(seed)
    return [round(20 * 10 ** draw.random()) for _ in range(4000)]


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_before_anything_is_seen_the_ranges_go_from_short_to_long_and_use_everybody(count: int) -> None:
    everyone = candidates(count)
    found = ranges(policy_with(Shared()), everyone, [1, *range(32, 12_000, 50), 100_000])
    assert found == sorted(found)
    assert set(found) == {worker.id for worker in everyone}
    assert (found[0], found[-1]) == ("w0", f"w{count - 1}")


def test_known_tokens_are_what_counts_and_not_the_size_of_the_body() -> None:
    policy, everyone = policy_with(Shared()), candidates(4)
    request = request_with(prompt(10_000), prompt(10_000), headers={"content-length": "40"})
    assert ids(policy.choose(request, everyone))[0] == "w3"
    assert ids(policy.choose(request_with(prompt(10), headers={"content-length": "400000"}), everyone))[0] == "w0"


def test_ranges_are_learned_so_that_each_gets_about_the_same_tokens() -> None:
    shared, everyone = Shared(), candidates(4)
    policy = policy_with(shared)
    before = tokens_by_worker(policy, everyone, short_lengths(1))
    assert before["w0"] > 0.9 * before.total()
    shared.clock.advance(INTERVAL_SECS)
    after = tokens_by_worker(policy, everyone, short_lengths(2))
    assert len(after) == 4
    assert all(0.85 * after.total() / 4 < tokens < 1.15 * after.total() / 4 for tokens in after.values())


def test_ranges_are_learned_no_sooner_than_after_the_interval() -> None:
    shared, everyone = Shared(), candidates(4)
    policy = policy_with(shared, settings=BucketSettings(adjust_interval_secs=60))
    ranges(policy, everyone, short_lengths(1))
    shared.clock.advance(59)
    assert ranges(policy, everyone, [190]) == ["w0"]
    shared.clock.advance(1)
    assert ranges(policy, everyone, [190]) == ["w3"]


def test_what_another_process_was_asked_is_learned_from_too() -> None:
    shared, everyone = Shared(), candidates(4)
    other, policy = policy_with(shared, slot=1), policy_with(shared, slot=0)
    ranges(other, everyone, short_lengths(1))
    shared.clock.advance(INTERVAL_SECS)
    sent = tokens_by_worker(policy, everyone, short_lengths(2))
    assert all(0.85 * sent.total() / 4 < tokens < 1.15 * sent.total() / 4 for tokens in sent.values())


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ((6500, 300, 100, 200), ("w0", Reason.LENGTH_RANGE)),  # Not more than 64 prompts of 100 tokens apart.
        ((6501, 300, 100, 200), ("w2", Reason.LENGTH_BALANCE)),
        ((30_000, 20_100, 20_000, 20_200), ("w0", Reason.LENGTH_RANGE)),  # Not more than 1.5 times.
        ((30_001, 20_100, 20_000, 20_200), ("w2", Reason.LENGTH_BALANCE)),
        ((100, 9000, 200, 200), ("w0", Reason.LENGTH_RANGE)),  # The range's worker is the one that was sent least.
    ],
)
def test_out_of_balance_by_both_thresholds_the_worker_that_was_sent_least_is_chosen(
    sent: tuple[int, ...], expected: tuple[str, Reason]
) -> None:
    shared, everyone = Shared(), candidates(4)
    policy = policy_with(shared)
    # What was sent before the policy looks is no matter.
    shared.table.column(0).note_sent(3, tokens=1_000_000, blocks=0)
    assert ids(ask(policy, everyone, 100))[0] == "w0"
    for slot, tokens in enumerate(sent):
        shared.table.column(slot).note_sent(slot, tokens=tokens, blocks=0)
    choice = ask(policy, everyone, 100)
    assert (ids(choice)[0], choice.reason) == expected
    shared.clock.advance(INTERVAL_SECS)
    # A new window begins.
    assert ask(policy, everyone, 100).reason is Reason.LENGTH_RANGE


def test_only_candidates_share_the_lengths_and_the_balance() -> None:
    shared, everyone = Shared(), candidates(4)
    policy = policy_with(shared)
    two = everyone.only([1, 3])
    assert ranges(policy, two, [10, 30_000]) == ["w1", "w3"]
    shared.table.column(0).note_sent(0, tokens=10_000_000, blocks=0)
    assert ranges(policy, two, [10, 30_000]) == ["w1", "w3"]


def test_falls_back_to_the_neighbouring_ranges() -> None:
    policy, everyone = policy_with(Shared()), candidates(5)
    orders = {ids(choice)[0]: ids(choice) for choice in (ask(policy, everyone, n) for n in range(1, 12_000, 50))}
    assert orders["w0"] == ["w0", "w1", "w2"]
    assert set(orders["w2"]) == {"w1", "w2", "w3"}
    assert orders["w4"] == ["w4", "w3", "w2"]
