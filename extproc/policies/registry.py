"""The policies by their configured names. The only list."""

from collections.abc import Mapping
from types import MappingProxyType

from extproc.policies.base import Policy
from extproc.policies.random import Random
from extproc.policies.round_robin import RoundRobin

POLICIES: Mapping[str, type[Policy]] = MappingProxyType(
    {policy.name: policy for policy in (Random, RoundRobin)},
)
