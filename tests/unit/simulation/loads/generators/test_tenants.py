"""Tenants: their system prompts, and who of them comes how often."""

import pytest

from extproc.errors import ConfigurationError
from extproc.simulation.loads.generators.bursts import Bursts
from extproc.simulation.loads.generators.shared_prompts import SharedPrompts
from extproc.simulation.loads.generators.tenants import TenantLoad

every_load = pytest.mark.parametrize("kind", [SharedPrompts, Bursts], ids=lambda kind: kind.name)


@every_load
def test_requests_share_the_system_prompt_of_their_tenant_and_nothing_else(kind: type[TenantLoad]) -> None:
    by_tenant: dict[str, list[set[int]]] = {}
    for session in kind(requests=2000).sessions():
        by_tenant.setdefault(session.key, []).append(set(session.turns[0].blocks.tolist()))
    everywhere: set[int] = set()
    for prompts in by_tenant.values():
        of_tenant = {block for prompt in prompts for block in prompt}
        assert not everywhere & of_tenant
        everywhere |= of_tenant
        if len(prompts) > 1:
            shared = set.intersection(*prompts)
            assert 2500 // 512 <= len(shared) <= 8000 // 512
            assert all(one & other == shared for one in prompts for other in prompts if one is not other)


@every_load
def test_the_shortest_system_prompt_is_no_longer_than_the_longest(kind: type[TenantLoad]) -> None:
    with pytest.raises(ConfigurationError, match=r"min_system_tokens: must be at most .*max_system_tokens \(8,000\)"):
        kind(min_system_tokens=8001)
    same = kind(requests=2, min_system_tokens=1024, max_system_tokens=1024)
    assert all(1025 <= session.turns[0].prompt_tokens <= 1024 + 4000 for session in same.sessions())
