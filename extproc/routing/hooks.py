"""Request hooks: plugins that see a request before it is routed, and may change or refuse it.

A hook is a class behind an entry point of the group ``extproc.hooks``; see :class:`RequestHook`. It runs in every
router, for every request, so it has a time budget. One that raises, or whose answer comes late, is skipped and counted;
or the request is refused, where the operator wants it so. A hook that computes for long without awaiting holds the
router up all the same: its lateness is only seen when it returns.
"""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Mapping, Sequence
from time import perf_counter
from typing import Any, Protocol

import msgspec

from extproc.api.request import Changes, RoutingRequest
from extproc.config.hooks import HookSettings
from extproc.errors import HookFailed, HookRefusal
from extproc.routing.flow import Flow
from extproc.telemetry.metrics import Metrics
from extproc.telemetry.tasks import spawn

logger = logging.getLogger(__name__)

MAX_HEADERS = 64
MAX_TEXT_LENGTH = 4096
_OURS = ("x-gateway-destination-endpoint", "x-extproc-decision", "host", "content-length", "transfer-encoding")


class HookRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a hook sees. Header names are lower case. ``body`` is None when none was read; ``model`` is its model."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes | None
    model: str | None


class HookResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a hook wants done.

    ``set_headers`` are set on the request, for policies and for the worker. ``model`` is the model in place of the
    body's. ``metadata`` is added to the data plane's dynamic metadata, in the namespace ``extproc``. ``refuse_status``
    (400 to 599) answers the request with ``refuse_message`` instead of routing it.
    """

    set_headers: Mapping[str, str] = {}
    model: str | None = None
    metadata: Mapping[str, str] = {}
    refuse_status: int = 0
    refuse_message: str = ""


class RequestHook(Protocol):
    """What a plugin implements. It is made once in each router, with its ``options`` from the configuration.

    ``needs_body`` asks for the body of requests on the known API paths.
    """

    needs_body: bool

    def __init__(self, *, options: Mapping[str, object]) -> None: ...

    def on_request(self, request: HookRequest) -> HookResult | Awaitable[HookResult | None] | None:
        """Look at a request; None changes nothing. May be an ``async def``."""


class HookRunner:
    """Runs the hooks of one router, in order; ``hooks`` are pairs of name and hook."""

    def __init__(self, *, hooks: Sequence[tuple[str, RequestHook]], settings: HookSettings, metrics: Metrics) -> None:
        self._hooks = tuple(hooks)
        self._budget_secs = settings.time_budget_secs
        self._refuses = settings.on_error == "refuse"
        self._results = metrics.hooks
        self.read_bodies = any(hook.needs_body for _, hook in self._hooks)

    def __bool__(self) -> bool:
        return bool(self._hooks)

    def run(self, request: RoutingRequest) -> Flow[None]:
        """Let every hook see a request; each sees what those before it changed.

        Raises :class:`~extproc.errors.HookRefusal`, and :class:`~extproc.errors.HookFailed` where failures refuse.
        """
        for name, hook in self._hooks:
            outcome, result = yield from self._call(hook, request, name)
            if result is not None and outcome == "ok":
                try:
                    _apply(result, request)
                except (ValueError, TypeError, AttributeError) as error:
                    logger.error("Hook %s wants what cannot be done: %s", name, error)  # noqa: TRY400 - says it all
                    outcome = "failed"
                except HookRefusal:
                    self._results.labels(name, "refused").inc()
                    raise
            self._results.labels(name, outcome).inc()
            if outcome != "ok" and self._refuses:
                raise HookFailed("A request hook failed.")

    def _call(self, hook: RequestHook, request: RoutingRequest, name: str) -> Flow[tuple[str, HookResult | None]]:
        started = perf_counter()
        try:
            result = hook.on_request(_shown(request))
            if inspect.isawaitable(result):
                result = yield from self._awaited(result)
        except TimeoutError:
            return "timeout", None
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - somebody else's code; the request goes on
            # Not its message or trace: it may quote the request.
            logger.error("Hook %s raised %s", name, type(error).__name__)  # noqa: TRY400
            return "failed", None
        if perf_counter() - started > self._budget_secs:
            return "timeout", None
        return "ok", result

    def _awaited(self, result: Awaitable[HookResult | None]) -> Flow[HookResult | None]:
        async def bounded() -> HookResult | None:
            async with asyncio.timeout(self._budget_secs):
                return await result

        answer: HookResult | None = yield spawn(bounded(), name="hook")
        return answer


def _shown(request: RoutingRequest) -> HookRequest:
    model = None
    if request.payload is not None:
        try:
            model = _model.decode(request.payload).model
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # Whatever is wrong with the body is said when it is read for routing.
            model = None
    return HookRequest(
        method=request.method, path=request.path, headers=request.headers, body=request.payload, model=model
    )


class _Model(msgspec.Struct):
    model: str | None = None


_model = msgspec.json.Decoder(_Model)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _apply(result: HookResult, request: RoutingRequest) -> None:
    """Do what a hook wants; raises ``ValueError`` when that cannot be done, and :class:`HookRefusal`."""
    if result.refuse_status:
        if not 400 <= result.refuse_status <= 599:  # noqa: PLR2004 - the classes of errors
            raise ValueError(f"a refusal has a status of 400 to 599, not {result.refuse_status}")
        raise HookRefusal(result.refuse_message, status=result.refuse_status)
    before = request.changes or Changes()
    headers = _texts(result.set_headers)
    for name, _ in headers:
        if name in _OURS or name.startswith(":") or name != name.lower():
            raise ValueError(f"the header {name[:64]!r} cannot be set")
    body = before.body
    if result.model is not None:
        body = request.payload = _with_model(request, result.model)
    if headers:
        request.headers = {**request.headers, **dict(headers)}
    changes = Changes(before.headers + headers, before.metadata + _texts(result.metadata), body)
    if changes != Changes():
        request.changes = changes


def _texts(pairs: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    if len(pairs) > MAX_HEADERS:
        raise ValueError(f"at most {MAX_HEADERS} headers or metadata can be set")
    for name, value in pairs.items():
        if not (0 < len(name) <= MAX_TEXT_LENGTH and len(value) <= MAX_TEXT_LENGTH and (name + value).isprintable()):
            raise ValueError("names and values are short printable text")
    return tuple(pairs.items())


def _with_model(request: RoutingRequest, model: str) -> bytes:
    """Return the body with another model and everything else as it came."""
    if request.payload is None or request.truncated:
        raise ValueError("the model cannot be rewritten: the body is not there")
    fields: dict[str, Any] = _fields.decode(request.payload)
    return msgspec.json.encode(fields | {"model": model})
