"""Whether a chat template wants the content of a message as one text or as a list of parts.

The engine looks at the syntax tree: a template that loops over the content of a message wants parts. A different answer
means a different prompt, so what counts here is to agree with the engine, also where its rules are only heuristics.
"""

from collections.abc import Iterator
from typing import Literal, TypeAlias

from jinja2 import nodes

ContentFormat: TypeAlias = Literal["string", "openai"]


class _NotPlainError(Exception):
    """A target is not a single name, where the engine gives up and takes the content as one text."""


def detect_content_format(template: nodes.Template) -> ContentFormat:
    """Return ``openai`` when the template loops over the parts of a content, else ``string``."""
    try:
        message_names = _message_names(template)
        loops_in_macros, loops_over_arguments = _macro_loops(template, message_names)
        for loop in template.find_all(nodes.For):
            iterated = loop.iter.name if isinstance(loop.iter, nodes.Name) else None
            if (
                _reaches(loop.iter, message_names, "content")
                or iterated in loops_over_arguments.get(id(loop), ())
                or (iterated == "content" and id(loop) not in loops_in_macros)
            ):
                _name(loop.target)
                return "openai"
    except _NotPlainError:
        pass
    return "string"


def _name(target: nodes.Node) -> str:
    if not isinstance(target, nodes.Name):
        raise _NotPlainError
    return target.name


def _reaches(node: nodes.Node | None, names: set[str], key: str | None = None) -> bool:
    """Whether ``node`` is one of the variables, or their ``key``, perhaps filtered, tested or sliced."""
    while isinstance(node, nodes.Filter | nodes.Test) or (
        isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
    ):
        node = node.node
    if key is not None:
        by_item = isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and node.arg.value == key
        by_attribute = isinstance(node, nodes.Getattr) and node.attr == key
        if not (by_item or by_attribute):
            return False
        assert isinstance(node, nodes.Getitem | nodes.Getattr)
        node = node.node
    return isinstance(node, nodes.Name) and node.ctx == "load" and node.name in names


def _message_names(template: nodes.Template) -> set[str]:
    """Return the loop variables that stand for one message."""
    lists = {"messages"}
    pending = ["messages"]
    while pending:
        current = {pending.pop()}
        found = {_name(node.target) for node in template.find_all(nodes.Assign) if _reaches(node.node, current)}
        pending.extend(found - lists)
        lists |= found
    return {_name(loop.target) for loop in template.find_all(nodes.For) if _reaches(loop.iter, lists)}


def _macro_loops(template: nodes.Template, message_names: set[str]) -> tuple[set[int], dict[int, set[str]]]:
    """Return the ids of loops in macros, and for some the parameters that are given a message's content."""
    inside: set[int] = set()
    parameters: dict[int, set[str]] = {}
    for macro in template.find_all(nodes.Macro):
        given = set(_parameters_given_content(template, macro, message_names))
        for loop in macro.find_all(nodes.For):
            inside.add(id(loop))
            if given:
                parameters[id(loop)] = given
    return inside, parameters


def _parameters_given_content(template: nodes.Template, macro: nodes.Macro, message_names: set[str]) -> Iterator[str]:
    names = [argument.name for argument in macro.args]
    for call in template.find_all(nodes.Call):
        if not (isinstance(call.node, nodes.Name) and call.node.name == macro.name):
            continue
        for name, argument in zip(names, call.args, strict=False):
            if _reaches(argument, message_names, "content"):
                yield name
        for keyword in call.kwargs:
            if keyword.key in names and _reaches(keyword.value, message_names, "content"):
                yield keyword.key
