"""The variables that a chat template sees while it is rendered.

Compiled templates ask for a variable in every turn of a loop that may use it, so that has to be one look-up in C.
"""

from collections.abc import Callable, MutableMapping
from typing import Any

from jinja2 import Environment
from jinja2.runtime import Context
from jinja2.utils import missing


class Variables(dict[str, Any]):
    """Variables by name. What is not there is looked for once, and then noted down as jinja's ``missing``."""

    def __missing__(self, name: str) -> Any:  # noqa: ANN401
        self[name] = missing
        return missing


class TemplateContext(Context):
    """jinja's context, with given and set variables in one place; it writes into the ``Variables`` that it gets.

    jinja keeps them apart and looks at those that are set first, which comes to the same.
    """

    resolve_or_missing: Callable[[str], Any]  # type: ignore[assignment]

    def __init__(
        self,
        environment: Environment,
        parent: dict[str, Any],
        name: str | None,
        blocks: dict[str, Callable[[Context], Any]],
        globals: MutableMapping[str, Any] | None = None,  # noqa: A002 - jinja's name for it
    ) -> None:
        variables = parent if type(parent) is Variables else Variables(parent)
        super().__init__(environment, variables, name, blocks, globals=globals)
        self.vars = variables
        self.resolve_or_missing = variables.__getitem__
