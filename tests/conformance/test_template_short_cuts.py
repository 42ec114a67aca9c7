"""The short cuts of our templates' environment against the `transformers` library's, which has none.

Every snippet gets values of every kind: those that a short cut is for, and those that only look like them.
"""

import os
from typing import Any

import pytest

from extproc.errors import InvalidRequest
from extproc.prompt.chat_template import ChatTemplate

os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it would advise to install PyTorch
from transformers.utils import chat_template_utils as library

SNIPPETS = [
    (
        "{% for x in value %}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}"
        "{{ loop.revindex }}|{% endfor %}"
    ),
    ("{% for x in value %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }}{{ loop.cycle(1, 2) }}{{ loop }}{% endfor %}"),
    (
        "{% for x in value %}{% if loop.index == 2 %}{% break %}{% endif %}{{ loop.depth }}{{ loop.changed(x) }}"
        "{% endfor %}"
    ),
    (
        "{% for x in value %}{{ x }}{% for y in loop %}{{ y[0] }}{{ loop.index }}{% endfor %}{{ loop.index }}"
        "{% endfor %}"
    ),
    (
        "{% for x in value recursive %}{{ loop.depth0 }}{{ x }}{% if x is iterable and x is not string %}"
        "{{ loop(x) }}{% endif %}{% endfor %}"
    ),
    "{% for x in value if x %}{{ loop.index }}{{ loop.last }}{{ loop.length }}{% else %}none{% endfor %}",
    (
        "{{ value.role }}{{ value['role'] }}{{ value.items }}{{ value['items'] is defined }}"
        "{{ value.missing is defined }}"
    ),
    (
        "{{ value.get('role') }}{{ value.get('x', 1) }}{{ value.keys() | list }}{{ value.items() | list }}"
        "{{ value.copy() }}"
    ),
    "{{ value.missing }}|{{ value['missing'] }}|{{ value.missing.deeper }}",
    "{{ value.missing + 'x' + 'y' }}",
    "{{ value.strip() }}",
    "{{ value.split('a')[-1].lstrip('\\n') }}",
    "{{ value.startswith(value) }}{{ value.upper() }}",
    "{{ value.join(['a', 'b']) }}",
    "{{ value.replace('a', value) }}",
    "{{ value.strip(1) }}",
    "{{ value.count(1) }}",
    "{{ value.format('a') }}{{ '{0.__class__}{0[role]}{0.role}'.format(value) }}",
    "{{ value.append(1) }}",
    "{{ value.pop() }}",
    "{{ value.update({}) }}",
    "{{ value.__class__ }}",
    "{{ value['__class__'] }}",
    "{{ value._x }}",
    "{{ value.mro }}",
    "{{ value + 'b' + 'c' }}",
    "{{ 'a' + value + 'c' }}",
    "{{ 'a' + value + value }}",
    "{% set ns = namespace(a=value) %}{% set ns.a, ns.b = ns.a, value %}{{ ns.a }}{{ ns['b'] }}{{ ns.c is defined }}",
    (
        "{% set ns = namespace(a=1) %}{% macro f(ns) %}{{ ns.a }}{{ ns.role }}{% endmacro %}{% set ns.a = 2 %}"
        "{{ f(value) }}{{ f(ns) }}"
    ),
    "{% set ns = value %}{{ ns.role }}{{ ns.missing }}{% set ns.role = 1 %}",
    "{% set ns = namespace(a=value) %}{% set ns.a = ns %}{{ ns.a.b is defined }}",
    "{{ '｜' + value }}{{ value + '｜' + 'b' }}{{ 1 }}{{ '｜' + value.role + value }}|",
    "{% for x in value %}<{{ 'é' + x }}>{% endfor %}{% macro f(x) %}{{ 'é' + x }}{% endmacro %}{{ f(value) }}",
    "{% block b %}{{ 'é' + value }}{% endblock %}{% set c %}{{ 'é' + value }}{% endset %}{{ c }}",
    "{% autoescape true %}{{ 'é<' + value }}{% endautoescape %}",
    "{{ 1 + value + 'c' }}",
    "{{ value ~ 1 }}",
    "{{ value + 1 + 2 }}",
    "{{ 'a' + 'b' + value + ('c' + value + 'd') }}",
    "{{ value[0] }}{{ value[1:] }}{{ value[value] }}",
    (
        "{% autoescape true %}{{ '<' + value + '>' }}{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(value) }}"
        "{% endautoescape %}"
    ),
    "{% macro f(x, y=2) %}{{ x }}{{ y }}{% endmacro %}{{ f(value) }}{{ f(value, 1) }}{{ f() }}{{ f(y=value) }}",
    "{% macro f(x) %}{{ x }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(value, 1, z=2) }}",
    "{% macro f(x) %}{% endmacro %}{{ f(1, 2) }}",
    "{% macro f(x) %}{{ caller(x) }}{% endmacro %}{% call(y) f(value) %}<{{ y }}>{% endcall %}",
    "{% macro f(x) %}{{ caller(x) }}{% endmacro %}{{ f(1) }}",
    (
        "{% set ns = namespace(a=value, b='x') %}{% for x in [1, 2] %}{% set ns.b = ns.b ~ x %}{% endfor %}"
        "{{ ns.a }}{{ ns.b }}{{ ns.c }}"
    ),
    "{% set ns = namespace(_a=1) %}",
    "{% set ns = namespace() %}{% set ns._a = 1 %}",
    "{{ namespace({'a': 1}).a }}{{ namespace(self=1) }}",
    "{{ dict(a=value).a }}{{ dict.fromkeys('ab', value) }}{{ dict(_x=1) }}",
    "{{ value | tojson }}",
    "{{ value | tojson(indent=2) }}",
    "{{ value | tojson(ensure_ascii=true) }}{{ value | tojson(false, 4, [',', ':'], true) }}",
    "{{ value | tojson(indent='--') }}",
    "{{ value | trim }}{{ value | trim('a') }}",
    "{{ value | length }}",
    "{{ undefined_name | tojson }}",
    "{{ value is mapping }}",
    "{% if value is string %}{{ value }}{% elif value.role %}{{ value.role }}{% endif %}",
    "{% set x %}{{ value }}{% endset %}{{ x | upper }}",
    "{% for x in value %}{% set y = x %}{% endfor %}{{ y }}",
    "{% set x = 1 %}{% for i in [1] %}{{ x }}{{ value }}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}",
    "{{ self.b() }}{% block b %}{{ value }}{% endblock %}",
    "{% with x = value %}{{ x }}{% endwith %}{{ x }}",
    "{% filter upper %}{{ value }}{% endfilter %}",
    "{{ raise_exception(value) }}",
    "{% generation %}{{ value }}{% set inner = 1 %}{% endgeneration %}{{ inner }}",
    "{{ [value] | map(attribute='role') | list }}",
    "{{ [value] | selectattr('role', 'equalto', 'user') | list }}",
    "{{ value | items | list }}",
    "{{ value | dictsort }}",
    "{{ range(200000) }}",
    "{{ loop.index }}",
    "{% set loop = {'first': 1} %}{{ loop.first }}",
    "{{ lipsum.__globals__ }}",
    "{{ cycler(1, 2).next() }}",
]
ODD_VALUES: list[Any] = [
    *(None, True, 3, 1.5, "", " a\n", "baab", "<é>", [], [1], ["a", "b", "c"], [[1, [2]], [3]], [{"role": "x"}, 1]),
    *({}, {"role": "user"}, {"items": 1, "role": None, "get": 2}, {"missing": {"deeper": "d"}, "first": 0}),
    {"_x": 1, "__class__": 2, "format": 3},
]


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_short_cuts_change_nothing(snippet: str) -> None:
    template = ChatTemplate(snippet, special_tokens={})
    for value in ODD_VALUES:
        messages = [{"role": "user", "content": ""}]
        arguments: dict[str, Any] = {"tools": None, "documents": None, "add_generation_prompt": False}
        extra = {"value": value}
        try:
            expected = library.render_jinja_template([messages], chat_template=snippet, **arguments, **extra)[0][0]
        except Exception as error:  # noqa: BLE001 - a template raises what it likes
            expected = type(error).__name__
        try:
            text = template.render(messages, continue_final_message=False, kwargs=extra, **arguments)
        except InvalidRequest as refused:
            text = type(refused.__cause__).__name__
        # What comes after an address is left out: it differs.
        assert text.partition(" at 0x")[0] == expected.partition(" at 0x")[0], value
