"""Every error that has an answer of its own.

``status`` is the HTTP status the client gets, ``code`` OpenAI's machine-readable error code and ``reason`` the closed
set that appears in the ``x-extproc-reason`` header and as a metric label. A class exists here only if someone catches
it or it has its own answer.
"""

from typing import ClassVar


class ExtprocError(Exception):
    """Base of all errors of this package."""


class ConfigurationError(ExtprocError):
    """The configuration cannot be used.

    ``faults`` lists every fault found, each starting with the path of the setting.
    """

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class StartupError(ExtprocError):
    """A process cannot start, and starting it again would not help (an address in use, a missing certificate)."""


class ModelUnusable(ExtprocError):  # noqa: N818 - as the condition is called everywhere
    """A model cannot be loaded; the message names the file at fault. Other models are not affected."""


class PluginUnusable(ExtprocError):  # noqa: N818 - as the condition is called everywhere
    """A plugin cannot be loaded, or is not what its kind must be; the message says which one and why."""


class TraceUnusable(ExtprocError):  # noqa: N818 - as the condition is called everywhere
    """A trace of requests cannot be replayed; the message names the first bad line and what is wrong with it."""


class PolicyFailed(ExtprocError):  # noqa: N818 - as the condition is called everywhere
    """A policy that is a plugin has chosen nobody who can be chosen; it is counted and logged where it happened."""


class Refusal(ExtprocError):  # noqa: N818 - it is an answer, not a fault
    """The request gets an answer from us instead of a worker.

    ``param`` names the field of the request that is at fault; ``retry_after_secs`` becomes ``retry-after``.
    """

    status: ClassVar[int] = 500
    reason: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None
    retry_after_secs: ClassVar[int | None] = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InternalFault(Refusal):
    """A fault of our own."""


class BodyUnavailable(Refusal):
    """The data plane keeps back the request body, and without it a wrong worker could be picked."""

    reason = "body_unavailable"


class HeadersUnavailable(Refusal):
    """The data plane keeps back the request headers, and without them nothing is known of the request."""

    reason = "headers_unavailable"


class InvalidRequest(Refusal):
    """The body is not what the path requires."""

    status = 400
    reason = "invalid_request"
    type = "invalid_request_error"


class ModelNotFound(Refusal):
    """No worker serves the model."""

    status = 404
    reason = "model_not_found"
    type = "invalid_request_error"
    code = "model_not_found"


class BodyTooLarge(Refusal):
    """The body is over ``server.max_body_bytes``."""

    status = 413
    reason = "body_too_large"
    type = "invalid_request_error"


class Overloaded(Refusal):
    """The router serves as many streams as it may."""

    status = 429
    reason = "overloaded"
    code = "overloaded"
    retry_after_secs = 1


class NoEndpoint(Refusal):
    """No worker may take the request: none healthy, or none in the data plane's subset."""

    status = 503
    reason = "no_endpoint"
    code = "no_endpoint"
    retry_after_secs = 1


class QueueTimeout(Refusal):
    """The request waited for a place among those in flight for as long as it may."""

    status = 503
    reason = "queue_timeout"
    code = "queue_timeout"
    retry_after_secs = 1


class HookFailed(Refusal):
    """A request hook failed, and the operator wants no request to pass without it."""

    reason = "hook_failed"


class HookRefusal(Refusal):
    """A request hook refuses the request, with a status and words of its own."""

    reason = "hook_refused"
    type = "invalid_request_error"

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status  # type: ignore[misc]  # of this answer, not of the class
        if status >= 500:  # noqa: PLR2004 - the server's errors
            self.type = "server_error"  # type: ignore[misc]


class DecisionTimeout(Refusal):
    """No decision within ``server.decision_timeout_secs``."""

    status = 503
    reason = "decision_timeout"
    code = "decision_timeout"
    retry_after_secs = 1


class Draining(Refusal):
    """The router is stopping and takes no new request."""

    status = 503
    reason = "draining"
    code = "draining"
    retry_after_secs = 1
