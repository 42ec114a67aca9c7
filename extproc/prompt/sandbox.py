"""The environment of chat templates: that of the `transformers` library, with short cuts where nothing can go wrong.

Chat templates come with models, so they run in jinja's sandbox, which checks every attribute that is read and every
function that is called. Almost all of them are keys of messages and methods of texts, whose verdict is known
beforehand. A short cut applies to exact types only (no subclasses) and to names and values that the sandbox would let
pass; everything else goes the sandbox's own way, so no outcome differs. ``template_code`` has more of them.

The templates see JSON values alone, besides what is defined here.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from types import BuiltinMethodType, MappingProxyType
from typing import Any, NoReturn

import msgspec
from jinja2 import meta, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import do_trim
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.utils import Namespace, missing

from extproc.prompt.list_loop import LOOP_COUNTERS, ListLoop
from extproc.prompt.template_code import TEXT_METHODS, CompilingEnvironment

_SAFE_ATTRIBUTES: Mapping[type, frozenset[str]] = MappingProxyType(
    {
        str: TEXT_METHODS,
        dict: frozenset(("get", "items", "keys", "values", "copy")),
        list: frozenset(("count", "index", "copy")),
        LoopContext: LOOP_COUNTERS,
        ListLoop: LOOP_COUNTERS,
    }
)
_SCOPES = frozenset(("_loop_vars", "_block_vars"))
JSON_TYPES = frozenset((str, int, float, bool, type(None), list, dict))
read_plainly = object.__getattribute__
_dumps = json.JSONEncoder(ensure_ascii=False).encode


class ChatNamespace(Namespace):
    """jinja's namespace, which refuses names with an underscore in front: they could lead to Python's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - `namespace(self=...)` is allowed
        attributes = dict(*args[1:], **kwargs)
        for name in attributes:
            _refuse_underscore(name)
        Namespace.__init__(args[0], attributes)

    def __setitem__(self, name: str, value: Any) -> None:  # noqa: ANN401
        if name[:1] == "_":
            _refuse_underscore(name)
        read_plainly(self, "_Namespace__attrs")[name] = value


class _Dict:
    """What templates know as ``dict``: it makes dicts, and gives no access to the class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:  # noqa: ANN401
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:  # noqa: ANN401
        """Make a dict with the given keys."""
        return dict.fromkeys(*args, **kwargs)


class _Generation(Extension):
    """``{% generation %}`` marks what the model says. That matters in training only; here its body is rendered."""

    tags = {"generation"}  # noqa: RUF012 - jinja declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("rendered"), [], [], body).set_lineno(line)

    def rendered(self, caller: Callable[[], str]) -> str:
        """Return the text of the body."""
        return caller()


_EXTENSIONS = (_Generation, loopcontrols)


def undeclared_variables(source: str) -> frozenset[str]:
    """Return what a template reads without setting it, besides jinja's own functions.

    Functions that only chat templates have count as variables, as they do for the engine.
    """
    environment = CompilingEnvironment(extensions=_EXTENSIONS)
    return frozenset(meta.find_undeclared_variables(environment.parse(source)))


def _refuse_underscore(name: Any) -> None:  # noqa: ANN401
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"A namespace cannot have an attribute with an underscore in front: {name!r}")


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _trim(value: Any, chars: str | None = None) -> str:  # noqa: ANN401
    return value.strip(chars) if type(value) is str else do_trim(value, chars)


def _tojson(
    x: Any,  # noqa: ANN401
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - templates pass these by position too
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    if ensure_ascii is False and separators is None and sort_keys is False:
        if indent is None:
            return _dumps(x)
        if type(indent) is int and indent > 0:
            # Python indents with a slow encoder of its own, msgspec what the fast one has written. It reads strict JSON
            # and knows nothing of NaN and lone surrogates.
            try:
                return msgspec.json.format(_dumps(x), indent=indent)
            except (msgspec.MsgspecError, UnicodeError):
                pass
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class TemplateEnvironment(CompilingEnvironment):
    """Compiles chat templates; ``clock`` is what ``strftime_now`` asks for the local time."""

    def __init__(self, *, clock: Callable[[], datetime]) -> None:
        super().__init__(extensions=_EXTENSIONS)
        self.filters["tojson"] = _tojson
        self.filters["trim"] = _trim
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = lambda format: clock().strftime(format)  # noqa: A006 - templates name it
        self.globals["dict"] = _Dict()
        self.globals["namespace"] = ChatNamespace

    def getattr(self, obj: Any, attribute: str) -> Any:  # noqa: ANN401
        """Read ``obj.attribute``, or ``obj["attribute"]``, for a template."""
        kind = type(obj)
        if kind is ChatNamespace:
            value = read_plainly(obj, "_Namespace__attrs").get(attribute, missing)
            if type(value) in JSON_TYPES:
                return value
        elif attribute in _SAFE_ATTRIBUTES.get(kind, ()):
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Call ``obj`` for a template."""
        kind = type(obj)
        if kind is BuiltinMethodType and type(obj.__self__) in _SAFE_ATTRIBUTES:
            if kwargs:
                kwargs.pop("_loop_vars", None)
                kwargs.pop("_block_vars", None)
            return obj(*args, **kwargs)
        if kind is Macro and _takes(obj, len(args), kwargs) and not context.eval_ctx.autoescape:
            return obj._func(*args)  # noqa: SLF001
        return super().call(context, obj, *args, **kwargs)


def _takes(macro: Macro, count: int, kwargs: dict[str, Any]) -> bool:
    """Whether a macro is called with just its arguments, all by position."""
    return (
        count == macro._argument_count  # noqa: SLF001
        and not (macro.caller or macro.catch_kwargs or macro.catch_varargs)
        and kwargs.keys() <= _SCOPES
    )
