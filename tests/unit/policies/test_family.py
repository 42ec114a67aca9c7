"""The family's contract, over every registered policy."""

import ast
import inspect
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.policies.base import Policy, Reason
from extproc.policies.registry import POLICIES
from tests.support.fleets import Shared

FAMILY = pytest.mark.parametrize("name", POLICIES)


def make(name: str, *, seed: int = 0, max_endpoints: int = 3) -> Policy:
    return POLICIES[name](Shared().context(seed=seed, max_endpoints=max_endpoints))


@FAMILY
@given(size=st.integers(1, 20), max_endpoints=st.integers(1, 5), seed=st.integers())
def test_returns_distinct_candidates_and_as_many_as_asked_for(
    name: str, size: int, max_endpoints: int, seed: int
) -> None:
    policy = make(name, seed=seed, max_endpoints=max_endpoints)
    candidates = workers(size)
    for _ in range(5):
        choice = policy.choose(REQUEST, candidates)
        assert set(choice.workers) <= set(candidates)
        assert len(set(choice.workers)) == len(choice.workers) == min(size, max_endpoints)
        assert choice.reason in Reason


@FAMILY
def test_same_seed_and_inputs_give_the_same_choices(name: str) -> None:
    one, other = make(name, seed=7), make(name, seed=7)
    candidates = workers(5)
    assert [one.choose(REQUEST, candidates) for _ in range(50)] == [
        other.choose(REQUEST, candidates) for _ in range(50)
    ]


@FAMILY
def test_first_choices_of_equal_workers_are_uniform(name: str) -> None:
    """Chi-square with 3 degrees of freedom: 16.3 is exceeded once in a thousand by chance, and the seed is fixed."""
    policy = make(name, seed=1)
    candidates, draws = workers(4), 4000
    counts = Counter(policy.choose(REQUEST, candidates).workers[0].id for _ in range(draws))
    expected = draws / len(candidates)
    assert len(counts) == len(candidates)
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 16.3


@FAMILY
def test_a_removed_worker_is_never_returned(name: str) -> None:
    policy = make(name)
    everyone = workers(4)
    for _ in range(10):
        policy.choose(REQUEST, everyone)
    for _ in range(20):
        assert everyone[2] not in policy.choose(REQUEST, everyone[:2] + everyone[3:]).workers


@FAMILY
def test_a_lone_candidate_is_chosen(name: str) -> None:
    assert make(name).choose(REQUEST, workers(1)).workers == workers(1)


@FAMILY
def test_is_one_file_named_as_configured_with_a_section_in_the_readme(name: str) -> None:
    source = Path(inspect.getfile(POLICIES[name]))
    assert source.stem == name
    assert f"## `{name}`" in (source.parent / "README.md").read_text()
    assert len([node for node in ast.parse(source.read_text()).body if isinstance(node, ast.ClassDef)]) == 1


@FAMILY
def test_draws_only_from_the_source_it_is_given(name: str) -> None:
    state = random.getstate()
    make(name).choose(REQUEST, workers(3))
    assert random.getstate() == state
