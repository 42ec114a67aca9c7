"""How Envoy's extensions are packed, and the few of them that more than one module names."""

from datetime import timedelta

from betterproto2 import Message
from envoy_data_plane.envoy.config.core.v3 import TypedExtensionConfig
from envoy_data_plane.envoy.extensions.retry.host.previous_hosts.v3 import PreviousHostsPredicate
from envoy_data_plane.google.protobuf import Any

HTTP_PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
PREVIOUS_HOSTS = "envoy.retry_host_predicates.previous_hosts"
HOST_SELECTION_ATTEMPTS = 64
"""Picks, within one retry, until one is a host that was not tried.

A dead host has the fewest requests, so least-request balancing likes it: with one pick most retries return to it.
"""

DESTINATION = "x-gateway-destination-endpoint"
"""Header, and key in the metadata, that carry the decision."""

ATTEMPT_TIMEOUT = "x-envoy-upstream-rq-per-try-timeout-ms"
"""Header in which a router may say, in milliseconds, when an attempt whose answer has not begun is given up.

Envoy takes it off the request. It counts instead of ``envoy.hung_after_secs``.
"""

LB_NAMESPACE = "envoy.lb"
"""Namespace of the dynamic metadata that carry the decision and the endpoint that served."""

HOOKS_NAMESPACE = "extproc"
"""Namespace of the dynamic metadata that request hooks add."""

SUBSET_NAMESPACE = "envoy.lb.subset_hint"
"""Namespace, dot included, in which a data plane may tell which endpoints are allowed."""


def extension(name: str, message: Message) -> TypedExtensionConfig:
    """Return an extension's configuration under its well-known name."""
    return TypedExtensionConfig(name=name, typed_config=Any.pack(message))


def previous_hosts() -> Any:
    """Return the configuration of the retry predicate that skips hosts already tried for this request."""
    return Any.pack(PreviousHostsPredicate())


def seconds(value: float) -> timedelta:
    """Return a duration."""
    return timedelta(seconds=value)
