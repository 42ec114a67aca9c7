"""One HTTP request, as far as routing knows it."""

from collections.abc import Mapping

import msgspec

from extproc.api.body import RequestBody
from extproc.tokens.prompt_tokens import PromptTokens


class Changes(msgspec.Struct, frozen=True):
    """What hooks change of a request: headers to set, metadata to add, and the body in place of its own."""

    headers: tuple[tuple[str, str], ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None


class RoutingRequest(msgspec.Struct, kw_only=True):
    """What candidates, policies and hooks may look at.

    Header names are lower case, as Envoy sends them. ``body_needed`` is settled when the headers arrive: whether the
    decision depends on the body. ``payload`` is the body, or None when none was read: the request has none, it is not
    needed, or the data plane does not send it (``body_withheld``). ``truncated`` marks a body of which perhaps
    only the beginning was sent. ``body`` is its parsed form, None until and unless it is parsed.
    ``prompts`` are its prompts as token ids; empty until and unless they are wanted, and where they cannot be known.
    ``subset`` is the data plane's hint, the only endpoints it allows; None when it gave no hint. ``changes`` is what
    hooks change of the request on its way to the worker.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body_needed: bool = False
    payload: bytes | None = None
    truncated: bool = False
    body_withheld: bool = False
    subset: tuple[str, ...] | None = None
    body: RequestBody | None = None
    prompts: tuple[PromptTokens, ...] = ()
    changes: Changes | None = None
