from extproc.config.policies import PolicyParameters, PrefixHashSettings
from extproc.fleet.candidates import Candidates
from extproc.policies.base import Choice, Reason
from extproc.policies.prefix_hash import PrefixHash
from extproc.tokens.prompt_tokens import PromptTokens
from tests.support.fleets import Shared, candidates, prompt, request_with

SEEDS = range(60)


def policy_with(shared: Shared, settings: PrefixHashSettings | None = None, *, max_endpoints: int = 4) -> PrefixHash:
    parameters = PolicyParameters(prefix_hash=settings or PrefixHashSettings())
    return PrefixHash(shared.context(parameters=parameters, max_endpoints=max_endpoints))


def changed(tokens: PromptTokens, at: int) -> PromptTokens:
    """The prompt with another token at a position."""
    ids = tokens.ids.copy()
    ids[at] += 1
    return tokens._replace(ids=ids)


def ids(choice: Choice) -> list[str]:
    return [worker.id for worker in choice.workers]


def orders(policy: PrefixHash, prompts: list[PromptTokens], everyone: Candidates) -> list[list[str]]:
    return [ids(policy.choose(request_with(one), everyone)) for one in prompts]


def with_load(requests_by_place: tuple[int, ...]) -> tuple[Choice, list[str]]:
    """What is chosen for a prompt when the workers, in the order of its ring, have so many requests; and that order."""
    shared, everyone = Shared(), candidates(len(requests_by_place))
    policy, request = policy_with(shared), request_with(prompt(300))
    ring = policy.choose(request, everyone)
    assert ring.reason is Reason.RING
    for worker, requests in zip(ring.workers, requests_by_place, strict=True):
        shared.table.column(0).add(worker.slot, requests=requests)
    return policy.choose(request, everyone), ids(ring)


def test_prompts_that_begin_with_the_same_256_tokens_go_together() -> None:
    policy, everyone = policy_with(Shared()), candidates(8)
    short = [prompt(256, seed=seed) for seed in SEEDS]
    expected = orders(policy, short, everyone)
    assert orders(policy, [prompt(2000, seed=seed) for seed in SEEDS], everyone) == expected
    assert orders(policy, [changed(prompt(300, seed=seed), 256) for seed in SEEDS], everyone) == expected
    others = orders(policy, [changed(one, 255) for one in short], everyone)
    assert sum(one[0] == other[0] for one, other in zip(expected, others, strict=True)) < len(SEEDS) / 3
    assert {one[0] for one in expected} == {worker.id for worker in everyone}


def test_prompts_of_another_model_go_their_own_way() -> None:
    policy, everyone = policy_with(Shared()), candidates(8)
    prompts = [prompt(300, seed=seed) for seed in SEEDS]
    expected = orders(policy, prompts, everyone)
    others = orders(policy, [one._replace(root=one.root + 1) for one in prompts], everyone)
    assert sum(one[0] == other[0] for one, other in zip(expected, others, strict=True)) < len(SEEDS) / 3


def test_how_many_tokens_are_the_key_is_configured() -> None:
    policy, everyone = policy_with(Shared(), PrefixHashSettings(prefix_token_count=16)), candidates(8)
    prompts = [prompt(300, seed=seed) for seed in SEEDS]
    assert orders(policy, [changed(one, 16) for one in prompts], everyone) == orders(policy, prompts, everyone)
    assert orders(policy, [changed(one, 15) for one in prompts], everyone) != orders(policy, prompts, everyone)


def test_a_few_requests_over_the_mean_are_accepted() -> None:
    """Of four workers the mean is a quarter of the requests, and ten over it are few."""
    choice, ring = with_load((13, 0, 0, 0))
    assert (ids(choice), choice.reason) == (ring, Reason.RING)
    choice, ring = with_load((14, 0, 0, 0))
    assert (ids(choice), choice.reason) == ([*ring[1:], ring[0]], Reason.RING_NEXT)


def test_more_is_accepted_up_to_the_load_factor() -> None:
    """1.25 times 421 over 4 are 131, where ten over the mean are only 115; of 445 it is 139."""
    choice, ring = with_load((120, 100, 100, 100))
    assert (ids(choice), choice.reason) == (ring, Reason.RING)
    choice, ring = with_load((144, 100, 100, 100))
    assert (ids(choice), choice.reason) == ([*ring[1:], ring[0]], Reason.RING_NEXT)


def test_the_ring_is_walked_to_the_first_that_has_room() -> None:
    choice, ring = with_load((90, 100, 10, 0))
    assert (ids(choice), choice.reason) == ([ring[2], ring[3], ring[0], ring[1]], Reason.RING_NEXT)


def test_the_tightest_bounds_leave_the_ring_worker_of_equals() -> None:
    settings = PrefixHashSettings(load_factor=1.0, balance_abs_threshold=0)
    shared, everyone = Shared(), candidates(3)
    policy, request = policy_with(shared, settings), request_with(prompt(300))
    idle = policy.choose(request, everyone)
    for slot in range(3):
        shared.table.column(0).add(slot, requests=7)
    assert policy.choose(request, everyone) == idle
    shared.table.column(1).add(idle.workers[0].slot, requests=1)
    assert policy.choose(request, everyone).workers[0] is idle.workers[1]


def test_without_a_prompt_the_least_loaded_is_taken() -> None:
    shared, everyone = Shared(), candidates(3)
    for slot, tokens in enumerate((2000, 1000, 3000)):
        shared.table.column(0).add(slot, prefill_tokens=tokens)
    for request in (request_with(), request_with(prompt(0))):
        choice = policy_with(shared).choose(request, everyone)
        assert (ids(choice), choice.reason) == (["w1", "w0", "w2"], Reason.NO_KEY)
