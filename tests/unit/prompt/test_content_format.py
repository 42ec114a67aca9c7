"""Both what a template wants and what it reads, as vLLM 0.32 has judged these templates."""

import pytest

from extproc.prompt.chat_template import ChatTemplate

VERDICTS: list[tuple[str, str, list[str]]] = [
    (
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        "string",
        ["messages"],
    ),
    (
        "{% for m in messages %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}",
        "openai",
        ["messages"],
    ),
    (
        "{% for m in messages %}{% for c in m['content'] %}{{ c.text }}{% endfor %}{% endfor %}",
        "openai",
        ["messages"],
    ),
    (
        (
            "{% for m in messages %}{% for c in m.content | selectattr('type', 'equalto', 'text') %}"
            "{{ c.text }}{% endfor %}{% endfor %}"
        ),
        "openai",
        ["messages"],
    ),
    (
        "{% for m in messages %}{% for c in m.content[1:] %}{{ c.text }}{% endfor %}{% endfor %}",
        "openai",
        ["messages"],
    ),
    (
        "{% for m in messages %}{% for c in m.content[0] %}{{ c.text }}{% endfor %}{% endfor %}",
        "string",
        ["messages"],
    ),
    (
        "{% for m in messages[1:] %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}",
        "openai",
        ["messages"],
    ),
    (
        "{% for m in messages | reverse %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}",
        "openai",
        ["messages"],
    ),
    (
        ("{% for m in messages if m.role == 'user' %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}"),
        "openai",
        ["messages"],
    ),
    (
        "{% for m in messages %}{% for c in m.parts %}{{ c.text }}{% endfor %}{% endfor %}",
        "string",
        ["messages"],
    ),
    (
        "{% for m in other %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}",
        "string",
        ["other"],
    ),
    (
        (
            "{% set loop_messages = messages[1:] %}{% for m in loop_messages %}{% for c in m.content %}{{ c }}"
            "{% endfor %}{% endfor %}"
        ),
        "openai",
        ["messages"],
    ),
    (
        (
            "{% set a = messages %}{% set b = a | list %}{% for m in b %}{% for c in m.content %}{{ c }}"
            "{% endfor %}{% endfor %}"
        ),
        "openai",
        ["messages"],
    ),
    (
        (
            "{% set messages = messages[1:] %}{% for m in messages %}{% for c in m.content %}{{ c }}"
            "{% endfor %}{% endfor %}"
        ),
        "openai",
        ["messages"],
    ),
    (
        (
            "{% set ns = namespace() %}{% set ns.all = messages %}{% for m in messages %}"
            "{% for c in m.content %}{{ c }}{% endfor %}{% endfor %}"
        ),
        "string",
        ["messages"],
    ),
    (
        ("{% set a, b = messages, 1 %}{% for m in messages %}{% for c in m.content %}{{ c }}{% endfor %}{% endfor %}"),
        "openai",
        ["messages"],
    ),
    (
        (
            "{% for a, b in messages %}{% endfor %}{% for m in messages %}{% for c in m.content %}{{ c }}"
            "{% endfor %}{% endfor %}"
        ),
        "string",
        ["messages"],
    ),
    (
        "{% for m in messages %}{% for k, v in m.content %}{{ k }}{% endfor %}{% endfor %}",
        "string",
        ["messages"],
    ),
    (
        (
            "{% for m in messages %}{% for k, v in m.content %}{% endfor %}{% for c in m.content %}{{ c }}"
            "{% endfor %}{% endfor %}"
        ),
        "string",
        ["messages"],
    ),
    (
        (
            "{% for m in messages %}{% for c in m.content %}{% endfor %}{% for k, v in m.content %}{% endfor %}"
            "{% endfor %}"
        ),
        "openai",
        ["messages"],
    ),
    (
        ("{% for m in messages %}{% set content = m.content %}{% for c in content %}{{ c }}{% endfor %}{% endfor %}"),
        "openai",
        ["messages"],
    ),
    (
        ("{% for m in messages %}{% set text = m.content %}{% for c in text %}{{ c }}{% endfor %}{% endfor %}"),
        "string",
        ["messages"],
    ),
    (
        (
            "{% macro show(content) %}{% for c in content %}{{ c }}{% endfor %}{% endmacro %}"
            "{% for m in messages %}{{ show(m.content) }}{% endfor %}"
        ),
        "openai",
        ["messages"],
    ),
    (
        (
            "{% macro show(x) %}{% for c in x %}{{ c }}{% endfor %}{% endmacro %}{% for m in messages %}"
            "{{ show(m.content) }}{% endfor %}"
        ),
        "openai",
        ["messages"],
    ),
    (
        (
            "{% macro show(x, y) %}{% for c in y %}{{ c }}{% endfor %}{% endmacro %}{% for m in messages %}"
            "{{ show(m.content, 1) }}{% endfor %}"
        ),
        "string",
        ["messages"],
    ),
    (
        (
            "{% macro show(x, y) %}{% for c in y %}{{ c }}{% endfor %}{% endmacro %}{% for m in messages %}"
            "{{ show(1, y=m.content) }}{% endfor %}"
        ),
        "openai",
        ["messages"],
    ),
    (
        (
            "{% macro show(content) %}{% for c in content %}{{ c }}{% endfor %}{% endmacro %}"
            "{% for m in messages %}{{ show(m.role) }}{% endfor %}"
        ),
        "string",
        ["messages"],
    ),
    (
        (
            "{% macro show(x) %}{% for m in messages %}{% for c in m.content %}{{ c }}{% endfor %}{% endfor %}"
            "{% endmacro %}{{ show(1) }}"
        ),
        "openai",
        ["messages"],
    ),
    (
        (
            "{% macro show(x) %}{% for k, v in x %}{{ k }}{% endfor %}{% endmacro %}{% for m in messages %}"
            "{{ show(m.content) }}{% endfor %}"
        ),
        "string",
        ["messages"],
    ),
    (
        (
            "{% macro outer(x) %}{% macro inner(y) %}{% for c in y %}{{ c }}{% endfor %}{% endmacro %}"
            "{{ inner(x) }}{% endmacro %}{% for m in messages %}{{ outer(m.content) }}{% endfor %}"
        ),
        "string",
        ["messages"],
    ),
    (
        (
            "{% macro outer(x) %}{% macro inner(y) %}{% for c in x %}{{ c }}{% endfor %}{% endmacro %}"
            "{{ inner(x) }}{% endmacro %}{% for m in messages %}{{ outer(m.content) }}{% endfor %}"
        ),
        "openai",
        ["messages"],
    ),
    (
        "{% for m in messages %}{% for c in m.content is string %}{% endfor %}{% endfor %}",
        "openai",
        ["messages"],
    ),
    (
        "{% for m in messages %}{{ m.content | map(attribute='text') | join }}{% endfor %}",
        "string",
        ["messages"],
    ),
    (
        "{% for c in content %}{{ c }}{% endfor %}",
        "openai",
        ["content"],
    ),
    (
        "{% for a, b in content %}{{ a }}{% endfor %}",
        "string",
        ["content"],
    ),
    (
        "{% for c in messages[0].content %}{{ c }}{% endfor %}",
        "string",
        ["messages"],
    ),
    (
        "{% set m = messages[0] %}{% for c in m.content %}{{ c }}{% endfor %}",
        "string",
        ["messages"],
    ),
    (
        ("{% for i in range(messages | length) %}{% for c in messages[i].content %}{{ c }}{% endfor %}{% endfor %}"),
        "string",
        ["messages"],
    ),
    (
        (
            "{% for m in messages %}{% generation %}{% for c in m.content %}{{ c }}{% endfor %}"
            "{% endgeneration %}{% endfor %}"
        ),
        "openai",
        ["messages"],
    ),
    (
        "{% for m in messages %}{% for c in (m.content or []) %}{{ c }}{% endfor %}{% endfor %}",
        "string",
        ["messages"],
    ),
    (
        (
            "{{ raise_exception('a') }}{{ strftime_now('%d') }}{{ namespace() }}{{ dict() }}{{ range(1) }}"
            "{{ x }}{% set y = 1 %}{{ y }}"
        ),
        "string",
        ["raise_exception", "strftime_now", "x"],
    ),
    (
        ("{% if x is defined %}{{ y.z[w] }}{% endif %}{% for q in r %}{{ q }}{{ loop.index }}{% endfor %}{{ q }}"),
        "string",
        ["q", "r", "w", "x", "y"],
    ),
]


@pytest.mark.parametrize(("source", "content_format", "variables"), VERDICTS)
def test_the_verdict_is_that_of_the_engine(source: str, content_format: str, variables: list[str]) -> None:
    template = ChatTemplate(source, special_tokens={})
    assert template.content_format == content_format
    assert sorted(template.variables) == variables


def test_lists_that_name_each_other_end_the_search() -> None:
    source = "{% set a = messages %}{% set b = a %}{% set a = b %}{% for m in b %}{{ m.content }}{% endfor %}"
    assert ChatTemplate(source, special_tokens={}).content_format == "string"
