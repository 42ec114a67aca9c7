"""The tools of a request, in the form in which vLLM gives them to a chat template."""

from collections.abc import Iterable
from typing import Any

import msgspec

from extproc.api.body import decode_field
from extproc.errors import InvalidRequest


class Function(msgspec.Struct, frozen=True):
    """A function that the model may call; further fields are dropped, as vLLM drops them."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: bool | None = None

    def as_tool(self, *, defer_loading: bool | None = None) -> dict[str, Any]:
        """Return it as a chat template gets it; ``defer_loading`` is the tool's own."""
        function: dict[str, Any] = {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
        }
        if self.strict is not None:
            function["strict"] = self.strict
        deferred = self.defer_loading if self.defer_loading is not None else defer_loading
        if deferred is not None:
            function["defer_loading"] = deferred
        tool: dict[str, Any] = {"type": "function", "function": function}
        if defer_loading is not None:
            tool["defer_loading"] = defer_loading
        return tool


class Tool(msgspec.Struct, frozen=True):
    """A tool of the chat completions API."""

    function: Function
    type: str = "function"
    defer_loading: bool | None = None


_tools = msgspec.json.Decoder(list[Tool] | None)


def decode_tools(raw: msgspec.Raw) -> list[dict[str, Any]] | None:
    """Return the tools of a chat request; raises :class:`InvalidRequest`."""
    tools = decode_field(_tools, raw, "tools")
    return None if tools is None else [tool.function.as_tool(defer_loading=tool.defer_loading) for tool in tools]


def flat_tools(tools: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return functions whose fields stand in the tool itself; raises :class:`InvalidRequest`."""
    try:
        return [msgspec.convert(tool, Function).as_tool() for tool in tools]
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"A tool is not of the right shape: {error}", param="tools") from error
