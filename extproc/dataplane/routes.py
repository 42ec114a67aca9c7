"""Where requests go once the filters are through, and how often they are tried."""

from envoy_data_plane.envoy.config.route.v3 import (
    HeaderMatcher,
    RetryPolicy,
    RetryPolicyRetryBackOff,
    RetryPolicyRetryHostPredicate,
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)

from extproc.config.dataplane import EnvoySettings
from extproc.config.settings import Settings
from extproc.dataplane.eds import WORKER_CLUSTER
from extproc.dataplane.extensions import DESTINATION, HOST_SELECTION_ATTEMPTS, PREVIOUS_HOSTS, previous_hosts, seconds
from extproc.dataplane.worker_clusters import FALLBACK_CLUSTER

RETRY_ON = "connect-failure,refused-stream,reset,retriable-status-codes"
"""``reset`` covers a worker that closes a connection, idle or not, before the first byte of its answer."""

RETRIABLE_STATUSES = [502, 503]
"""A proxy beside the worker does not reach it; the worker takes nothing more.

A 500 may be the request's own fault, a 504 has cost its time once, and 429 is for the client to heed.
"""


def route_configuration(settings: Settings) -> RouteConfiguration:
    """Return the one virtual host: everything goes to the workers."""
    if settings.routing.destination == "list":
        routes = [_route(settings, WORKER_CLUSTER, retry_policy=worker_retries(settings.envoy))]
    else:
        named = _route(settings, WORKER_CLUSTER, retry_policy=None)
        routes = [named]
        if settings.envoy.fail_open:
            assert named.match is not None
            named.match.headers = [HeaderMatcher(name=DESTINATION, present_match=True)]
            routes.append(_route(settings, FALLBACK_CLUSTER, retry_policy=worker_retries(settings.envoy)))
    return RouteConfiguration(
        name="workers",
        virtual_hosts=[
            VirtualHost(
                name="workers",
                domains=["*"],
                routes=routes,
                request_body_buffer_limit=settings.server.max_body_bytes,
            )
        ],
    )


def worker_retries(envoy: EnvoySettings) -> RetryPolicy | None:
    """Return the retries of a request whose answer has not begun; ``None`` for no retries.

    Every attempt goes to a worker that was not tried: the next of the router's list, then one that Envoy balances to.
    """
    if not envoy.retries:
        return None
    return RetryPolicy(
        retry_on=RETRY_ON,
        retriable_status_codes=RETRIABLE_STATUSES,
        num_retries=envoy.retries,
        per_try_timeout=seconds(envoy.hung_after_secs) if envoy.hung_after_secs else None,
        retry_host_predicate=[RetryPolicyRetryHostPredicate(name=PREVIOUS_HOSTS, typed_config=previous_hosts())],
        host_selection_retry_max_attempts=HOST_SELECTION_ATTEMPTS,
        retry_back_off=RetryPolicyRetryBackOff(base_interval=seconds(0.005), max_interval=seconds(0.05)),
    )


def _route(settings: Settings, cluster: str, *, retry_policy: RetryPolicy | None) -> Route:
    """Return a route without a total time-out: an answer may stream for as long as its bytes keep coming."""
    return Route(
        match=RouteMatch(prefix="/"),
        route=RouteAction(
            cluster=cluster,
            timeout=seconds(0),
            idle_timeout=seconds(settings.envoy.stream_idle_timeout_secs),
            retry_policy=retry_policy,
        ),
    )
