"""What, besides its inputs, the output of a chat template depends on."""

from jinja2 import nodes

_CLOCK = "strftime_now"
_RANDOM_FILTER = "random"
_RANDOM_GLOBAL = "lipsum"


def clock_formats(template: nodes.Template) -> tuple[str, ...] | None:
    """Return every format in which the template asks for the time, or None when its output cannot be told from inputs.

    That is so when chance is involved, or when the clock is used in a way that only rendering would show: a format that
    is not a constant, or the clock under another name.
    """
    if _is_random(template):
        return None
    formats: set[str] = set()
    understood: set[int] = set()
    for test in template.find_all(nodes.Test):
        if test.name in ("defined", "undefined"):
            understood.add(id(test.node))
    for call in template.find_all(nodes.Call):
        form = _constant_format(call)
        if form is not None:
            formats.add(form)
            understood.add(id(call.node))
    for name in template.find_all(nodes.Name):
        if name.name == _CLOCK and name.ctx == "load" and id(name) not in understood:
            return None
    return tuple(sorted(formats))


def _constant_format(call: nodes.Call) -> str | None:
    if not (isinstance(call.node, nodes.Name) and call.node.name == _CLOCK) or call.dyn_args or call.dyn_kwargs:
        return None
    arguments = [*call.args, *(keyword.value for keyword in call.kwargs if keyword.key == "format")]
    if len(arguments) != 1 or not isinstance(arguments[0], nodes.Const) or not isinstance(arguments[0].value, str):
        return None
    return arguments[0].value


def _is_random(template: nodes.Template) -> bool:
    if any(name.name == _RANDOM_GLOBAL and name.ctx == "load" for name in template.find_all(nodes.Name)):
        return True
    return any(
        node.name == _RANDOM_FILTER or (node.name == "map" and _may_map_randomly(node))
        for node in template.find_all(nodes.Filter)
    )


def _may_map_randomly(node: nodes.Filter) -> bool:
    # `map` takes the name of a filter as its first argument.
    if node.dyn_args is not None:
        return True
    return any(not isinstance(argument, nodes.Const) or argument.value == _RANDOM_FILTER for argument in node.args[:1])
