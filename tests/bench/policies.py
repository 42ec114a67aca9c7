"""What choosing a worker costs a router, on top of the parsed and tokenized request, for every registered policy.

One process, 64 workers that have requests in flight, and prompts of three lengths. Half of a prompt's tokens are those
of many others, as of users of one system prompt; the other half is its own. No prompt comes twice, and each decision is
timed by itself: the choice, the endpoint list, and the accounting from the choice to the end of the request.
"""

import gc
import random
from collections.abc import Iterator
from statistics import median
from time import perf_counter

import numpy as np

from extproc.api.request import RoutingRequest
from extproc.fleet.candidates import Candidates
from extproc.index.block_hash import Ids, block_hashes
from extproc.policies.base import Needs, Policy
from extproc.policies.registry import POLICIES
from extproc.routing.accounting import Accounts
from extproc.routing.decision import Decision
from extproc.tokens.prompt_tokens import PromptTokens
from tests.bench.rows import Row, at_most
from tests.support.fleets import Shared, candidates

WORKERS = 64
INDEX_BYTES = 64 << 20
BLOCK_SIZE = 16
LEADS = 8
BUSIEST = 16
VOCABULARY = 1 << 17
PROMPTS = {"600 B": 150, "8k tokens": 8_192, "128k tokens": 131_072}
"""Tokens in a prompt."""

CASES = {"600 B": 2000, "8k tokens": 400, "128k tokens": 60}
"""Decisions that are timed; as many go before them."""

SIMPLE_BAR_US = 20
SIMPLE = frozenset(
    {
        "consistent_hashing",
        "manual",
        "passthrough",
        "power_of_two",
        "prefix_hash",
        "random",
        "round_robin",
    }
)
"""Hash, sticky and random policies, and those that do even less."""

BARS_US = {
    "cache_aware": {"8k tokens": 250, "128k tokens": 2000},
    "expected_latency": {"8k tokens": 300, "128k tokens": 2000},
}


def measure_policies() -> Iterator[Row]:
    """Measure every policy with every length of prompt; a policy without a bar is shown without one."""
    for name in POLICIES:
        for prompt in PROMPTS:
            yield _row(name, prompt)


def make_candidates(count: int, shared: Shared) -> Candidates:
    """Give workers, each with some requests in flight from another process."""
    everyone = candidates(count)
    other, rng = shared.table.column(1), random.Random(2)
    for candidate in everyone:
        requests = rng.randrange(BUSIEST)
        other.add(candidate.slot, requests=requests, decode_tokens=256 * requests)
        shared.busy(candidate.slot, 0.0125 * requests)
    return everyone


def make_request(tokens: int, number: int) -> RoutingRequest:
    """Make a tokenized request that no other ``number`` gives; its first half is one of a few."""
    lead = _ids(number % LEADS, tokens // 2)
    ids = np.concatenate([lead, _ids(LEADS + number, tokens - len(lead))])
    hashes = block_hashes(ids, block_size=BLOCK_SIZE, before=1)
    headers = {
        ":method": "POST",
        ":path": "/v1/chat/completions",
        "content-type": "application/json",
        "x-extproc-routing-key": f"user-{number % 1000}",
    }
    prompt = PromptTokens(ids, hashes, BLOCK_SIZE, 1, "miss", text_bytes=4 * tokens)
    return RoutingRequest(method="POST", path="/v1/chat/completions", headers=headers, prompts=(prompt,))


def decide_once(policy: Policy, request: RoutingRequest, everyone: Candidates, accounts: Accounts) -> None:
    """Do what a router does from the tokenized request to the end of its accounting."""
    choice = policy.choose(request, everyone)
    endpoints = ",".join([worker.address for worker in choice.workers])
    flight = accounts.start(request, choice, record=policy.needs >= Needs.PREFIXES)
    decision = Decision(endpoints, choice.workers[0], policy.name, choice.reason, accounts=accounts, flight=flight)
    decision.answered(status=200, served=choice.workers[0].address, streamed=False)
    decision.release()


def _row(name: str, prompt: str) -> Row:
    shared = Shared(prefix_index_bytes=INDEX_BYTES)
    loads = shared.loads()
    policy, everyone = POLICIES[name](shared.context(loads=loads)), make_candidates(WORKERS, shared)
    accounts = shared.accounts(loads=loads)
    requests = [make_request(PROMPTS[prompt], number) for number in range(2 * CASES[prompt])]
    times = []
    gc.collect()
    for request in requests:
        started = perf_counter()
        decide_once(policy, request, everyone, accounts)
        times.append(perf_counter() - started)
    micros = median(times[CASES[prompt] :]) * 1e6
    what = f"{name}, {WORKERS} workers, {prompt}"
    bar = SIMPLE_BAR_US if name in SIMPLE else BARS_US.get(name, {}).get(prompt)
    return Row(what, f"{micros:.1f} µs") if bar is None else at_most(what, micros, bar)


def _ids(seed: int, count: int) -> Ids:
    return np.random.default_rng(seed).integers(0, VOCABULARY, count, dtype=np.uint32)
