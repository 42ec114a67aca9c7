"""Variables while a template is rendered."""

from jinja2 import Environment
from jinja2.runtime import new_context
from jinja2.utils import missing

from extproc.prompt.template_context import TemplateContext, Variables


def context_of(variables: dict[str, object]) -> TemplateContext:
    return TemplateContext(Environment(), variables, None, {})


def test_given_and_set_variables_are_found() -> None:
    context = context_of(Variables({"given": 1, "both": 1}))
    context.vars["set"] = 2
    context.vars["both"] = 2
    assert [context.resolve_or_missing(name) for name in ("given", "set", "both")] == [1, 2, 2]
    assert context.get_all() == {"given": 1, "set": 2, "both": 2}


def test_a_variable_may_come_to_be() -> None:
    context = context_of(Variables())
    assert context.resolve_or_missing("late") is missing
    context.vars["late"] = 1
    assert context.resolve_or_missing("late") == 1


def test_a_plain_dict_is_not_written_to() -> None:
    given: dict[str, object] = {"a": 1}
    context = context_of(given)
    context.vars["b"] = 2
    assert context.resolve_or_missing("c") is missing
    assert given == {"a": 1}


def test_a_derived_context_adds_to_a_copy() -> None:
    environment = Environment()
    environment.context_class = TemplateContext
    context = new_context(environment, None, {}, Variables({"a": 1}), shared=True)
    derived = context.derived({"b": 2})
    assert [derived.resolve_or_missing(name) for name in ("a", "b")] == [1, 2]
    assert context.resolve_or_missing("b") is missing
