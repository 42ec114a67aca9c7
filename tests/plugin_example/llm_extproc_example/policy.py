"""A policy: each tenant has its worker, so its prefixes stay together; the header says who it is."""

import zlib
from typing import ClassVar

from extproc.api.request import RoutingRequest
from extproc.fleet.candidates import Candidates
from extproc.policies.base import Choice, Needs, PolicyContext, Reason


class TenantAffinity:
    """The worker of the tenant in ``x-tenant``; the one with the fewest requests for everybody else."""

    name: ClassVar[str] = "tenant_affinity"
    needs: ClassVar[Needs] = Needs.HEADERS

    def __init__(self, context: PolicyContext) -> None:
        self._loads = context.loads
        self._most = context.max_endpoints

    def choose(self, request: RoutingRequest, candidates: Candidates) -> Choice:
        """Start at the tenant's worker and go on in order."""
        tenant = request.headers.get("x-tenant", "")
        if tenant:
            first = zlib.crc32(tenant.encode()) % len(candidates)
        else:
            first = int(self._loads.requests(candidates).argmin())
        order = [*candidates.workers[first:], *candidates.workers[:first]]
        return Choice(tuple(order[: self._most]), Reason.PLUGIN)
