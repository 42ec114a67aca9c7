"""One HTTP exchange as ext_proc shows it: a state machine from messages to replies.

The data plane decides the mode; the first message's ``protocol_config`` tells it. A mode differs in when the routing
decision may be sent and in what a body chunk is answered with (the table stands in ``ARCHITECTURE.md``). When the
exchange has all that a decision needs it sets :attr:`Exchange.wanted`; its owner then calls :meth:`routed`,
:meth:`left_open` or :meth:`refused`, at once or later.

After the first end of stream of a direction, further messages of that direction are ignored: Envoy from 1.35 on repeats
the last body message of large bodies (envoyproxy/envoy#46237).
"""

from collections.abc import Callable
from enum import Enum, auto
from typing import NamedTuple

from extproc.api.request import Changes, RoutingRequest
from extproc.errors import BodyTooLarge, HeadersUnavailable, Refusal
from extproc.pb.ext_proc_pb2 import (
    BUFFERED,
    BUFFERED_PARTIAL,
    FULL_DUPLEX_STREAMED,
    NONE,
    STREAMED,
    HttpBody,
    HttpHeaders,
    ProcessingRequest,
)
from extproc.stream import replies
from extproc.stream.headers import RequestHeaders
from extproc.stream.usage_tail import UsageTail

SUBSET_NAMESPACE = "envoy.lb.subset_hint"
SUBSET_KEY = "x-gateway-destination-endpoint-subset"


class Phase(Enum):
    """How far the request side is."""

    READING = auto()  # what a decision needs has not all arrived
    DECIDING = auto()  # the decision is wanted
    ROUTED = auto()  # the decision is sent; what still arrives is passed on
    REFUSED = auto()  # answered by us; nothing more is said


class Answer(NamedTuple):
    """What the response headers tell.

    ``status`` is 0 where it is not shown, ``served`` the address of who served, or nothing. An answer that is
    ``streamed`` (server-sent events) has only begun; another is complete.
    """

    status: int
    served: str
    streamed: bool


class Exchange:
    """One exchange.

    ``needs_body(method, path)`` says whether a decision depends on the body. ``max_body_bytes`` is the largest body
    that is taken in, ``held_bytes`` what of it is held until the decision. ``response_passes`` says that a response
    body is on its way through us. ``answer`` is there once the response headers were seen.

    With ``usage_wanted``, which its owner may set until then, the body of a good answer is looked at as it passes, or
    asked for where the data plane would keep it to itself: ``usage`` has its end then.
    """

    __slots__ = (
        "_chunks",
        "_headers_answered",
        "_max_body_bytes",
        "_needs_body",
        "_request_ended",
        "_request_mode",
        "_response_ended",
        "_response_mode",
        "_trailers_owed",
        "_withholds",
        "answer",
        "body_skipped",
        "decision_text",
        "held_bytes",
        "phase",
        "request",
        "response_passes",
        "usage",
        "usage_wanted",
        "wanted",
    )

    def __init__(self, *, needs_body: Callable[[str, str], bool], max_body_bytes: int) -> None:
        self._needs_body = needs_body
        self._max_body_bytes = max_body_bytes
        self._request_mode = -1
        self._response_mode = -1
        self._chunks: list[bytes] = []
        self.held_bytes = 0
        self._headers_answered = False
        self._request_ended = False
        self._response_ended = False
        self._trailers_owed = False
        self._withholds = False
        self.response_passes = False
        self.phase = Phase.READING
        self.request = _NOTHING_KEPT
        self.wanted = False
        self.body_skipped = False
        self.answer: Answer | None = None
        self.decision_text: str | None = None
        self.usage_wanted = False
        self.usage: UsageTail | None = None

    def receive(self, message: ProcessingRequest) -> list[bytes]:
        """Take one message; return the replies that can be sent at once, in order.

        Raises :class:`~extproc.errors.Refusal` (a body that is too large, a request without headers); the owner then
        calls :meth:`refused`.
        """
        if self._request_mode < 0:
            self._learn_mode(message)
        if message.observability_mode or self.phase is Phase.REFUSED:
            return []
        kind = message.WhichOneof("request")
        if kind is None:
            return []
        return _HANDLERS[kind](self, message)

    def routed(self, endpoints: str, decision_text: str | None = None, *, attempt_secs: int = 0) -> list[bytes]:
        """Send the decision: ``endpoints`` for the data plane, ``decision_text`` for the response header (or None).

        ``attempt_secs`` limits each worker's time to its response headers, 0 does not. What hooks have changed of the
        request is sent along.
        """
        self.decision_text = decision_text
        return self._decided(endpoints, attempt_secs, self.request.changes)

    def left_open(self) -> list[bytes]:
        """Let the data plane balance this request by itself, as hooks have changed it."""
        return self._decided(None, 0, self.request.changes)

    def refused(self, refusal: Refusal) -> list[bytes]:
        """Answer the request ourselves."""
        self.wanted = False
        self.phase = Phase.REFUSED
        self._chunks = []
        self.held_bytes = 0
        anthropic = self.request.path.startswith("/v1/messages")
        self.request = _NOTHING_KEPT
        return [replies.immediate(refusal, anthropic=anthropic)]

    @property
    def dispensable(self) -> bool:
        """Whether the data plane can go on by itself: the request is routed and its body does not pass through us."""
        return self.phase is Phase.ROUTED and (self._request_ended or self._request_mode != FULL_DUPLEX_STREAMED)

    @property
    def ends_with_answer(self) -> bool:
        """Whether the end of the stream is the end of the answer, and not only that the data plane needs us no more.

        Envoy keeps a stream whose request body it buffered for us open for as long as the answer takes.
        """
        return self._response_ended or (self._request_mode in _BUFFERING and not self.body_skipped)

    def _learn_mode(self, message: ProcessingRequest) -> None:
        if not message.HasField("protocol_config"):
            self._request_mode = self._response_mode = FULL_DUPLEX_STREAMED
            self._withholds = True
            return
        config = message.protocol_config
        mode = self._request_mode = config.request_body_mode
        self._response_mode = config.response_body_mode
        self._withholds = mode == FULL_DUPLEX_STREAMED or (
            mode == STREAMED and config.send_body_without_waiting_for_header_response
        )

    def _on_request_headers(self, message: ProcessingRequest) -> list[bytes]:
        if self.phase is not Phase.READING or self.request is not _NOTHING_KEPT or self._request_ended:
            return []
        part: HttpHeaders = message.request_headers
        headers = RequestHeaders(part.headers)
        request = self.request = RoutingRequest(
            method=headers.get(":method"), path=headers.get(":path"), headers=headers
        )
        request.body_needed = self._needs_body(request.method, request.path)
        if message.HasField("metadata_context"):
            request.subset = _subset(message)
        if part.end_of_stream:
            self._request_ended = True
            return self._want()
        return self._await_body()

    def _await_body(self) -> list[bytes]:
        request = self.request
        length = request.headers.get("content-length", "")
        # Python refuses to read numbers of thousands of digits.
        if length.isdecimal() and (len(length) > _MAX_LENGTH_DIGITS or int(length) > self._max_body_bytes):
            raise self._too_large()
        if not request.body_needed:
            return self._want()
        if self._request_mode in _BUFFERING:
            self._headers_answered = True
            return [replies.REQUEST_HEADERS_CONTINUE]
        if not self._withholds:
            request.body_withheld = True
            return self._want()
        return []

    def _on_request_body(self, message: ProcessingRequest) -> list[bytes]:
        if self._request_ended:
            return []
        self._insist_on_headers()
        part: HttpBody = message.request_body
        # A buffered body is one message; with trailers behind it, it does not end the stream.
        self._request_ended = part.end_of_stream
        if self.phase is Phase.ROUTED:
            return self._chunk_replies(part.body, end_of_stream=part.end_of_stream)
        self._chunks.append(part.body)
        self.held_bytes += len(part.body)
        if self.held_bytes > self._max_body_bytes:
            raise self._too_large()
        if self.phase is Phase.READING and (part.end_of_stream or self._request_mode in _BUFFERING):
            self.request.truncated = not part.end_of_stream and self._request_mode == BUFFERED_PARTIAL
            return self._want()
        return []

    def _on_request_trailers(self, message: ProcessingRequest) -> list[bytes]:  # noqa: ARG002 - only their arrival counts
        if self._trailers_owed or (self._request_ended and self.phase is Phase.ROUTED):
            return []
        self._insist_on_headers()
        self._request_ended = True
        if self.phase is Phase.ROUTED:
            return [replies.REQUEST_TRAILERS_CONTINUE]
        self._trailers_owed = True
        return self._want() if self.phase is Phase.READING else []

    def _on_response_headers(self, message: ProcessingRequest) -> list[bytes]:
        self.answer = _answer(message)
        self._response_ended = message.response_headers.end_of_stream
        self.response_passes = self._response_mode == FULL_DUPLEX_STREAMED and not self._response_ended
        asks = self.usage_wanted and self._begin_reading(message, self.answer)
        if asks or self.decision_text is not None:
            mode = NONE if self.body_skipped else self._request_mode
            return [replies.response_headers(self.decision_text, streams_body=asks, request_mode=mode)]
        return [replies.RESPONSE_HEADERS_CONTINUE]

    def _begin_reading(self, message: ProcessingRequest, answer: Answer) -> bool:
        """Look at the answer's body if it can be read; whether the data plane has to be asked for it."""
        asks = self._response_mode == NONE
        # Envoy takes no override in the modes in which we withhold the reply to the headers.
        if self._response_ended or answer.status != _OK or (asks and self._withholds) or not _is_readable(message):
            return False
        self.usage = UsageTail(events=answer.streamed)
        return asks

    def _on_response_body(self, message: ProcessingRequest) -> list[bytes]:
        if self._response_ended:
            return []
        part: HttpBody = message.response_body
        self._response_ended = part.end_of_stream
        if self.usage is not None:
            self.usage.take(part.body)
        if self._response_mode == FULL_DUPLEX_STREAMED:
            self.response_passes = not part.end_of_stream
            return replies.response_chunks(part.body, end_of_stream=part.end_of_stream)
        return [replies.RESPONSE_BODY_CONTINUE]

    def _on_response_trailers(self, message: ProcessingRequest) -> list[bytes]:  # noqa: ARG002 - only their arrival counts
        if self._response_ended:
            return []
        self._response_ended = True
        self.response_passes = False
        return [replies.RESPONSE_TRAILERS_CONTINUE]

    def _want(self) -> list[bytes]:
        self.phase = Phase.DECIDING
        chunks = self._chunks
        if chunks:
            self.request.payload = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self.wanted = True
        return []

    def _insist_on_headers(self) -> None:
        if self.phase is Phase.READING and self.request is _NOTHING_KEPT:
            raise HeadersUnavailable(
                "The data plane does not send the request headers: set the filter's request_header_mode to SEND."
            )

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"The request body is larger than {self._max_body_bytes} bytes.")

    def _decided(self, endpoints: str | None, attempt_secs: int, changes: Changes | None) -> list[bytes]:
        self.wanted = False
        self.phase = Phase.ROUTED
        chunks, self._chunks = self._chunks, []
        self.held_bytes = 0
        # The stream may stay open for as long as the answer takes: keep nothing of the prompt.
        self.request = _NOTHING_KEPT
        if self._headers_answered:
            if not chunks:
                self._trailers_owed = False
                return [replies.routed_trailers(endpoints)]
            out = [replies.routed_body(endpoints, attempt_secs, changes)]
        else:
            self._headers_answered = True
            out = self._withheld_headers(endpoints, attempt_secs, changes, chunks)
        if self._trailers_owed:
            self._trailers_owed = False
            out.append(replies.REQUEST_TRAILERS_CONTINUE)
        return out

    def _withheld_headers(
        self, endpoints: str | None, attempt_secs: int, changes: Changes | None, chunks: list[bytes]
    ) -> list[bytes]:
        """Answer the headers, and then the chunks that have come meanwhile."""
        skip_body = self._request_mode in _BUFFERING and not self._request_ended
        self.body_skipped = skip_body
        body = None if changes is None else changes.body
        if body is None or not chunks:
            out = [replies.routed_headers(endpoints, skip_body=skip_body, attempt_secs=attempt_secs, changes=changes)]
            last = len(chunks) - 1
            ended = self._request_ended and not self._trailers_owed
            for position, chunk in enumerate(chunks):
                out += self._chunk_replies(chunk, end_of_stream=ended and position == last)
            return out
        out = [replies.routed_headers(endpoints, skip_body=False, attempt_secs=attempt_secs, changes=changes)]
        if self._request_mode == FULL_DUPLEX_STREAMED:
            return out + replies.request_chunks(body, end_of_stream=not self._trailers_owed)
        return out + [replies.replaced_chunk(part) for part in (body, *[b""] * (len(chunks) - 1))]

    def _chunk_replies(self, chunk: bytes, *, end_of_stream: bool) -> list[bytes]:
        if self._request_mode == FULL_DUPLEX_STREAMED:
            return replies.request_chunks(chunk, end_of_stream=end_of_stream)
        return [replies.REQUEST_BODY_CONTINUE]


_NOTHING_KEPT = RoutingRequest(method="-", path="", headers={})
_MAX_LENGTH_DIGITS = 20
_STATUS_DIGITS = 3
_OK = 200
_MEDIA_TYPES = frozenset({"application/json", "text/event-stream"})
_BUFFERING = frozenset({BUFFERED, BUFFERED_PARTIAL})

_HANDLERS: dict[str, Callable[[Exchange, ProcessingRequest], list[bytes]]] = {
    "request_headers": Exchange._on_request_headers,  # noqa: SLF001 - the dispatch table of the class above
    "request_body": Exchange._on_request_body,  # noqa: SLF001
    "request_trailers": Exchange._on_request_trailers,  # noqa: SLF001
    "response_headers": Exchange._on_response_headers,  # noqa: SLF001
    "response_body": Exchange._on_response_body,  # noqa: SLF001
    "response_trailers": Exchange._on_response_trailers,  # noqa: SLF001
}


def _answer(message: ProcessingRequest) -> Answer:
    status = 0
    streamed = False
    for header in message.response_headers.headers.headers:
        if header.key == ":status":
            text = header.raw_value.decode("latin-1") or header.value
            status = int(text) if text.isdecimal() and len(text) <= _STATUS_DIGITS else 0
        elif header.key == "content-type":
            streamed = (header.raw_value.decode("latin-1") or header.value).startswith("text/event-stream")
    return Answer(status, _served(message), streamed)


def _is_readable(message: ProcessingRequest) -> bool:
    """Whether an answer is JSON or server-sent events, as they are."""
    headers = RequestHeaders(message.response_headers.headers)
    media_type = headers.get("content-type").partition(";")[0].strip()
    return media_type in _MEDIA_TYPES and headers.get("content-encoding", "identity") == "identity"


def _served(message: ProcessingRequest) -> str:
    """Who served, as the endpoint picker protocol has the data plane say it."""
    namespaces = message.metadata_context.filter_metadata
    if replies.DESTINATION_NAMESPACE not in namespaces:
        return ""
    fields = namespaces[replies.DESTINATION_NAMESPACE].fields
    return fields[replies.SERVED].string_value if replies.SERVED in fields else ""


def _subset(message: ProcessingRequest) -> tuple[str, ...] | None:
    """The endpoints the data plane allows (endpoint picker protocol, section "subset"); None without a hint.

    A list of strings, or, as one data plane sends it, one string with commas.
    """
    namespaces = message.metadata_context.filter_metadata
    if SUBSET_NAMESPACE not in namespaces:
        return None
    fields = namespaces[SUBSET_NAMESPACE].fields
    if SUBSET_KEY not in fields:
        return None
    value = fields[SUBSET_KEY]
    entries = [item.string_value for item in value.list_value.values] or value.string_value.split(",")
    return tuple(entry for entry in map(str.strip, entries) if entry)
