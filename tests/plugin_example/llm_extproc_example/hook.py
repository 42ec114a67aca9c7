"""A request hook: knows tenants, names their tier to the worker, resolves model aliases, keeps some tenants out."""

from collections.abc import Mapping
from typing import Any

from extproc.routing.hooks import HookRequest, HookResult

FORBIDDEN = 403


class Tenants:
    """Options: ``blocked``, a list of tenants, and ``models``, the model for each alias."""

    needs_body = True

    def __init__(self, *, options: Mapping[str, Any]) -> None:
        self._blocked = frozenset(options.get("blocked", ()))
        self._models = dict(options.get("models", {}))

    def on_request(self, request: HookRequest) -> HookResult:
        """Refuse who is blocked; else set the tier and the model."""
        tenant = request.headers.get("x-tenant", "")
        if tenant in self._blocked:
            return HookResult(refuse_status=FORBIDDEN, refuse_message="This tenant is blocked.")
        return HookResult(
            set_headers={"x-tenant-tier": "gold" if tenant else "none"},
            model=self._models.get(request.model or ""),
            metadata={"tenant": tenant or "none"},
        )
