"""Request hooks: plugins that see a request before it is routed, and may change or refuse it.

A hook is a class behind an entry point of the group ``extproc.hooks``; see :class:`RequestHook`. It runs in every
router, for every request, so it has a time budget. One that raises, or whose answer comes late or cannot be used, is
skipped and counted; or the request is refused, where the operator wants it so. A hook that computes for long without
awaiting holds the router up all the same: its lateness is only seen when it returns.

Of a failure the log has the first of each kind, by the type of the exception: its words may quote the request.
"""

import asyncio
import inspect
import logging
import re
from collections.abc import Awaitable, Mapping, Sequence
from time import perf_counter
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from extproc.api.request import Changes, RoutingRequest
from extproc.config.entries import model_name_problem
from extproc.config.hooks import HookSettings
from extproc.errors import HookFailed, HookRefusal
from extproc.routing.flow import Flow
from extproc.telemetry.metrics import Metrics
from extproc.telemetry.tasks import spawn

logger = logging.getLogger(__name__)

MAX_HEADERS = 64
MAX_TEXT_LENGTH = 4096

_HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,256}")
_NOT_A_HOOKS = frozenset(
    {
        "connection", "content-length", "expect", "host", "keep-alive", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade", "x-extproc-decision", "x-gateway-destination-endpoint",
    }
)  # fmt: skip
"""Headers that say how the message is sent, or are ours to set."""
_ENVOYS = "x-envoy-"
"""Envoy lets nobody set these."""


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


class _Failure(NamedTuple):
    """Why a hook's answer is not used."""

    result: Literal["failed", "timeout"]
    why: str


class HookRunner:
    """Runs the hooks of one router, in order; ``hooks`` are pairs of name and hook."""

    def __init__(self, *, hooks: Sequence[tuple[str, RequestHook]], settings: HookSettings, metrics: Metrics) -> None:
        self._hooks = tuple(hooks)
        self._budget_secs = settings.time_budget_secs
        self._refuses = settings.on_error == "refuse"
        self._results = metrics.hooks
        self._told: set[tuple[str, _Failure]] = set()
        self.read_bodies = any(hook.needs_body for _, hook in self._hooks)

    def __bool__(self) -> bool:
        return bool(self._hooks)

    def run(self, request: RoutingRequest) -> Flow[None]:
        """Let every hook see a request; each sees what those before it changed.

        Raises :class:`~extproc.errors.HookRefusal`, and :class:`~extproc.errors.HookFailed` where failures refuse.
        """
        shown = _shown(request)
        for name, hook in self._hooks:
            answer = yield from self._ask(hook, shown)
            if isinstance(answer, HookResult):
                try:
                    _apply(answer, request, shown.model)
                    shown = _shown(request, before=shown)
                except _Unusable as error:
                    answer = _Failure("failed", str(error))
                except HookRefusal:
                    self._results.labels(name, "refused").inc()
                    raise
            if isinstance(answer, _Failure):
                self._failed(name, answer)
            else:
                self._results.labels(name, "ok").inc()

    def _failed(self, name: str, failure: _Failure) -> None:
        self._results.labels(name, failure.result).inc()
        # Bounded by hooks times the types of exceptions that they raise.
        if (name, failure) not in self._told:
            self._told.add((name, failure))
            logger.error("Hook %s is passed over: %s; that this happens again is only counted", name, failure.why)
        if self._refuses:
            raise HookFailed("A request hook failed.")

    def _ask(self, hook: RequestHook, shown: HookRequest) -> Flow["HookResult | _Failure | None"]:
        started = perf_counter()
        try:
            given = hook.on_request(shown)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - somebody else's code; the request goes on
            return _raised(error)
        answer = (yield from self._awaited(given)) if inspect.isawaitable(given) else given
        if isinstance(answer, _Failure):
            return answer
        if perf_counter() - started > self._budget_secs:
            return _LATE
        if answer is not None and not isinstance(answer, HookResult):
            return _Failure("failed", f"it returned {type(answer).__name__}, not HookResult")
        return answer

    def _awaited(self, awaitable: Awaitable["HookResult | None"]) -> Flow["HookResult | _Failure | None"]:
        """Wait for an answer no longer than it may take, even where a hook does not let itself be cancelled."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[HookResult | _Failure | None] = loop.create_future()

        def settle(done: "asyncio.Task[HookResult | _Failure | None] | None" = None) -> None:
            if not answer.done():
                answer.set_result(_LATE if done is None or done.cancelled() else done.result())

        task = spawn(_finished(awaitable), name="hook")
        task.add_done_callback(settle)
        timer = loop.call_later(self._budget_secs, settle)
        try:
            settled: HookResult | _Failure | None = yield answer
            return settled
        finally:
            timer.cancel()
            task.cancel()


_LATE = _Failure("timeout", "it takes longer than `hooks.time_budget_secs`")


async def _finished(awaitable: Awaitable["HookResult | None"]) -> "HookResult | _Failure | None":
    try:
        return await awaitable
    except (Exception, SystemExit, asyncio.CancelledError) as error:  # noqa: BLE001 - as for a hook that is no coroutine
        return _raised(error)


def _raised(error: BaseException) -> _Failure:
    if isinstance(error, TimeoutError):
        return _LATE
    return _Failure("failed", f"it raised {type(error).__name__}")


class _Model(msgspec.Struct):
    model: str | None = None


_model = msgspec.json.Decoder(_Model)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _shown(request: RoutingRequest, *, before: HookRequest | None = None) -> HookRequest:
    """Return what the next hook sees; ``before`` is what the one before it saw."""
    model = _model_in(request.payload) if before is None or before.body is not request.payload else before.model
    return HookRequest(
        method=request.method,
        path=request.path,
        headers=MappingProxyType(dict(request.headers)),
        body=request.payload,
        model=model,
    )


def _model_in(payload: bytes | None) -> str | None:
    if payload is None:
        return None
    try:
        return _model.decode(payload).model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Whatever is wrong with the body is said when it is read for routing.
        return None


class _Unusable(Exception):  # noqa: N818 - it never leaves this module
    """A hook wants what cannot be done. The words quote nothing of the request."""


def _apply(result: HookResult, request: RoutingRequest, model: str | None) -> None:
    """Do what a hook wants, all or nothing; ``model`` is the body's. Raises :class:`HookRefusal` when it wants that."""
    if result.refuse_status:
        if type(result.refuse_status) is not int or not 400 <= result.refuse_status <= 599:  # noqa: PLR2004 - errors
            raise _Unusable("its `refuse_status` is not of 400 to 599")
        raise HookRefusal(str(result.refuse_message)[:MAX_TEXT_LENGTH], status=result.refuse_status)
    headers = _texts(result.set_headers, "set_headers")
    for name, _ in headers:
        _check_header(name)
    metadata = _texts(result.metadata, "metadata")
    before = request.changes or Changes()
    body = before.body
    if result.model is not None and result.model != model:
        body = request.payload = _with_model(request, result.model)
    if headers:
        request.headers = {**request.headers, **dict(headers)}
    changes = Changes(before.headers + headers, before.metadata + metadata, body)
    if changes != Changes():
        request.changes = changes


def _texts(pairs: object, what: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(pairs, Mapping) or len(pairs) > MAX_HEADERS:
        raise _Unusable(f"its `{what}` is not a mapping of at most {MAX_HEADERS} texts")
    for text in (*pairs.keys(), *pairs.values()):
        if not isinstance(text, str) or len(text) > MAX_TEXT_LENGTH or not text.isprintable():
            raise _Unusable(f"its `{what}` has what is not printable text of at most {MAX_TEXT_LENGTH} characters")
    return tuple(pairs.items())


def _check_header(name: str) -> None:
    if not _HEADER_NAME.fullmatch(name):
        raise _Unusable("its `set_headers` has what is not a header name in lower case")
    if name in _NOT_A_HOOKS:
        raise _Unusable(f"no hook may set the header {name}")
    if name.startswith(_ENVOYS):
        raise _Unusable(f"no hook may set headers that begin with {_ENVOYS}")


def _with_model(request: RoutingRequest, model: object) -> bytes:
    """Return the body with another model and everything else as it came."""
    if request.payload is None or request.truncated:
        raise _Unusable("its `model` cannot be put in place: the body is not there")
    if not isinstance(model, str) or model_name_problem(model):
        raise _Unusable("its `model` is no name of a model")
    try:
        fields: dict[str, Any] = _fields.decode(request.payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _Unusable("its `model` cannot be put in place: the body is no JSON object") from None
    return msgspec.json.encode(fields | {"model": model})
