"""What a client is told when a chat template fails: the template's own words, and never a part of the prompt."""

import re

from jinja2.exceptions import TemplateError

from extproc.errors import InvalidRequest

_QUOTED = re.compile(r"""(['"])(.*?)\1""")
_HARMLESS = frozenset(
    ("str", "int", "float", "bool", "list", "dict", "tuple", "NoneType", "Undefined", "<", ">", "<=", ">=")
)


def refusal(error: Exception) -> InvalidRequest:
    """Return the refusal (400) that stands for an error which rendering has raised."""
    reason = _template_message(error)
    if reason is None:
        reason = f"The chat template fails with {_described(error)}."
    return InvalidRequest(reason, param="messages")


def _template_message(error: BaseException | None) -> str | None:
    # A template's own complaint may have led to another error, and says more.
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, TemplateError):
            return str(error) or "The chat template refuses the messages."
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def _described(error: Exception) -> str:
    name, text = type(error).__name__, str(error)
    # These speak of types; what they quote is shown only where it is the name of one.
    speaks_of_types = isinstance(error, TypeError | ArithmeticError | RecursionError)
    if text and speaks_of_types and all(word in _HARMLESS for _, word in _QUOTED.findall(text)):
        return f"{name}: {text}"
    return name
