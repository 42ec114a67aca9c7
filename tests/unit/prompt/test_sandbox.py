"""What a template may do, and may not: it comes with a model and is not trusted."""

from datetime import datetime
from typing import Any

import pytest
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.runtime import Undefined

from extproc.prompt.sandbox import TemplateEnvironment, undeclared_variables

ENVIRONMENT = TemplateEnvironment(clock=lambda: datetime(2025, 2, 3))  # noqa: DTZ001 - templates show the local time


def render(source: str, **variables: Any) -> str:  # noqa: ANN401
    return ENVIRONMENT.from_string(source).render(**variables)


@pytest.mark.parametrize(
    "source",
    [
        "{{ x.__class__.__mro__ }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ ''['__class__']['__mro__'] }}",
        "{{ (x | attr('__class__')).y }}",
        "{{ ''.format.__self__.__class__.y }}",
        "{{ '{0.__class__.__mro__}'.format(x) }}",
        "{{ '{a.__class__.__mro__}'.format_map({'a': x}) }}",
        "{{ x.update({'a': 1}) }}",
        "{{ x['update']({'a': 1}) }}",
        "{{ [].append(1) }}",
        "{{ [1].pop() }}",
        "{{ dict.__class__.__mro__ }}",
        "{{ dict.mro() }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ namespace(_a=1) }}",
        "{% set n = namespace() %}{% set n._a = 1 %}",
        "{{ namespace({'__class__': 1}) }}",
        "{{ raise_exception.__globals__.y }}",
        "{{ strftime_now.__closure__.y }}",
        "{{ loop_outside.__class__ }}{% for i in [1] %}{{ loop.__class__.__mro__ }}{% endfor %}",
        "{% for i in [1] %}{{ loop._iterable.y }}{% endfor %}",
        "{% macro f() %}{% endmacro %}{{ f.__call__.__globals__ }}",
        "{% macro f() %}{% endmacro %}{{ f._func.y }}",
        "{{ self._TemplateReference__context.y }}",
    ],
)
def test_pythons_internals_and_changes_are_out_of_reach(source: str) -> None:
    x = {"role": "user"}
    with pytest.raises(TemplateError):
        render(source, x=x)
    assert x == {"role": "user"}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ x.a }}{{ x['a'] }}", "11"),
        ("{{ x.get('a') }}{{ x.get('b', 2) }}{{ x.items() | list }}", "12[('a', 1)]"),
        ("{{ 'a-b'.split('-')[1].upper() }}", "B"),
        ("{{ '{}-{}'.format(1, x.a) }}", "1-1"),
        (
            "{% set n = namespace(a=1, self=2) %}{% set n.a = n.a + 1 %}{{ n.a }}{{ n.self }}{{ n.b is defined }}",
            "22False",
        ),
        ("{{ dict(a=1) }}{{ dict.fromkeys('a') }}", "{'a': 1}{'a': None}"),
        ("{{ strftime_now('%Y') }}{{ strftime_now(format='%m') }}", "202502"),
        ("{% generation %}a{{ x.a }}{% endgeneration %}", "a1"),
        ("{% for i in [1, 2, 3] %}{% if loop.last %}{% break %}{% endif %}{{ i }}{% endfor %}", "12"),
        ("a\n{% if x %}\n  {% set y = 1 %}\nb\n{% endif %}\n", "a\nb\n"),
        ("{{ x | trim }}{{ ' a ' | trim }}{{ 'xax' | trim('x') }}", "{'a': 1}aa"),
    ],
)
def test_what_templates_use_works(source: str, text: str) -> None:
    assert render(source, x={"a": 1}) == text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("", '{"b": "<é>", "a": [1, {}]}'),
        ("(indent=2)", '{\n  "b": "<é>",\n  "a": [\n    1,\n    {}\n  ]\n}'),
        ("(indent=0)", '{\n"b": "<é>",\n"a": [\n1,\n{}\n]\n}'),
        ("(ensure_ascii=true)", '{"b": "<\\u00e9>", "a": [1, {}]}'),
        ("(separators=[',', ':'], sort_keys=true)", '{"a":[1,{}],"b":"<é>"}'),
    ],
)
def test_json_is_written_plainly(arguments: str, text: str) -> None:
    assert render("{{ x | tojson" + arguments + " }}", x={"b": "<é>", "a": [1, {}]}) == text


@pytest.mark.parametrize("value", [float("nan"), "\ud800", 10**30])
def test_json_that_is_none_is_written_as_python_does(value: Any) -> None:  # noqa: ANN401
    assert render("{{ x | tojson(indent=1) }}", x=[value]).split("\n")[1] == " " + render("{{ x | tojson }}", x=value)


def test_the_template_can_refuse() -> None:
    with pytest.raises(TemplateError, match="alternate"):
        render("{{ raise_exception('Roles must alternate') }}")


def test_values_of_a_namespace_are_checked_like_others() -> None:
    formatted = ENVIRONMENT.from_string("{% set n = namespace(f='{0.__class__.y}'.format) %}{{ n.f(1) }}")
    with pytest.raises(SecurityError):
        formatted.render()


def test_a_missing_key_tells_what_is_missing() -> None:
    value = ENVIRONMENT.compile_expression("x.role", undefined_to_none=False)(x={})
    assert isinstance(value, Undefined)
    with pytest.raises(TemplateError, match="'dict object' has no attribute 'role'"):
        str(value + "x")


def test_functions_of_chat_templates_count_as_variables() -> None:
    source = "{{ raise_exception(strftime_now(a)) }}{{ namespace() }}{{ range(1) }}{% set b = c %}{{ b }}"
    assert undeclared_variables(source) == {"raise_exception", "strftime_now", "a", "c"}
