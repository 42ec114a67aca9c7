"""gRPC health checking: what is reported, and the two RPCs that report it.

Load balancers ask for different names. ``liveness`` is SERVING for as long as the process answers; the empty name and
the names of the service follow readiness.
"""

from collections.abc import Callable
from typing import Final

from google.protobuf.message import DecodeError

from extproc.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse
from extproc.server.base import Responder
from extproc.server.grpc_framing import Status

SERVING: Final = HealthCheckResponse.SERVING
NOT_SERVING: Final = HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN: Final = HealthCheckResponse.SERVICE_UNKNOWN

LIVENESS = "liveness"
_READINESS_NAMES = frozenset(
    {"", "readiness", "inference-extension", "envoy.service.ext_proc.v3.ExternalProcessor"}
)  # fmt: skip


class HealthBoard:
    """What this process reports. Starts as not ready."""

    def __init__(self) -> None:
        self._ready = False
        self._subscribers: dict[object, Callable[[], None]] = {}

    @property
    def ready(self) -> bool:
        """Whether requests are welcome."""
        return self._ready

    def set_ready(self, ready: bool) -> None:  # noqa: FBT001 - a setter
        """Change readiness and tell every subscriber, if it is a change."""
        if ready == self._ready:
            return
        self._ready = ready
        for callback in tuple(self._subscribers.values()):
            callback()

    def status(self, name: str) -> "HealthCheckResponse.ServingStatus.ValueType | None":
        """Return the status of a service, or None for a name nobody knows."""
        if name == LIVENESS:
            return SERVING
        if name in _READINESS_NAMES:
            return SERVING if self._ready else NOT_SERVING
        return None

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` on every change; returns what ends that, which may be called more than once."""
        key = object()
        self._subscribers[key] = callback

        def unsubscribe() -> None:
            self._subscribers.pop(key, None)

        return unsubscribe


class CheckHandler:
    """One ``Check`` RPC: one question, one answer."""

    __slots__ = ("_board", "_responder")

    def __init__(self, board: HealthBoard, responder: Responder) -> None:
        self._board = board
        self._responder = responder

    def receive(self, message: bytes) -> None:
        """Answer the question and end the RPC; NOT_FOUND for an unknown name."""
        name = _asked_name(message)
        status = None if name is None else self._board.status(name)
        if status is None:
            self._responder.finish(Status.NOT_FOUND, "unknown service")
            return
        self._responder.send(_report(status))
        self._responder.finish()

    def half_close(self) -> None:
        """End an RPC that asked nothing."""
        self._responder.finish(Status.INTERNAL, "no request message")

    def drain(self) -> None:
        """Do nothing: whatever is asked is answered at once."""

    def closed(self) -> None:
        """Do nothing: nothing is held."""


class WatchHandler:
    """One ``Watch`` RPC: the status, then every change of it, until the peer or the process leaves."""

    __slots__ = ("_board", "_name", "_responder", "_sent", "_unsubscribe")

    def __init__(self, board: HealthBoard, responder: Responder) -> None:
        self._board = board
        self._responder = responder
        self._name: str | None = None
        self._sent: HealthCheckResponse.ServingStatus.ValueType | None = None
        self._unsubscribe: Callable[[], None] | None = None

    def receive(self, message: bytes) -> None:
        """Report at once, SERVICE_UNKNOWN for an unknown name, and from then on; a second question is ignored."""
        if self._unsubscribe is None:
            self._name = _asked_name(message)
            self._unsubscribe = self._board.subscribe(self._tell)
            self._tell()

    def half_close(self) -> None:
        """Stay open if something was asked: a unary request is always half closed."""
        if self._unsubscribe is None:
            self._responder.finish(Status.INTERNAL, "no request message")

    def drain(self) -> None:
        """End the RPC: the process goes away."""
        self._responder.finish(Status.UNAVAILABLE, "stopping")

    def closed(self) -> None:
        """Stop listening to the board."""
        if self._unsubscribe is not None:
            self._unsubscribe()

    def _tell(self) -> None:
        status = None if self._name is None else self._board.status(self._name)
        if status is None:
            status = SERVICE_UNKNOWN
        if status != self._sent:
            self._sent = status
            self._responder.send(_report(status))


def _asked_name(message: bytes) -> str | None:
    """Return the service asked for, or None for a message that is no question; it names nothing known either."""
    try:
        return HealthCheckRequest.FromString(message).service
    except DecodeError:
        return None


def _report(status: "HealthCheckResponse.ServingStatus.ValueType") -> bytes:
    return HealthCheckResponse(status=status).SerializeToString()
