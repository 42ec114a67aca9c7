"""The policies by their configured names. The only list."""

from collections.abc import Mapping
from types import MappingProxyType

from extproc.policies.base import Policy
from extproc.policies.bucket import Bucket
from extproc.policies.cache_aware import CacheAware
from extproc.policies.consistent_hashing import ConsistentHashing
from extproc.policies.expected_latency import ExpectedLatency
from extproc.policies.least_load import LeastLoad
from extproc.policies.manual import Manual
from extproc.policies.passthrough import Passthrough
from extproc.policies.power_of_two import PowerOfTwo
from extproc.policies.prefix_hash import PrefixHash
from extproc.policies.random import Random
from extproc.policies.round_robin import RoundRobin

POLICIES: Mapping[str, type[Policy]] = MappingProxyType(
    {
        policy.name: policy
        for policy in (
            Random,
            RoundRobin,
            PowerOfTwo,
            CacheAware,
            Bucket,
            Manual,
            ConsistentHashing,
            PrefixHash,
            LeastLoad,
            Passthrough,
            ExpectedLatency,
        )
    },
)
