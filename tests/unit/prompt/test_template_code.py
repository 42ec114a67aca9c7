"""Which code is written: that it means the same is tested in ``tests/conformance``."""

import pytest

from extproc.prompt.template_code import TEXT_METHODS, CompilingEnvironment


def code(source: str) -> str:
    return CompilingEnvironment(extensions=()).compile(source, raw=True)


@pytest.mark.parametrize("source", ["{{ x.role }}", "{{ x['role'] }}"])
def test_keys_of_dicts_are_read_directly(source: str) -> None:
    assert "['role'] if 'role' in" in code(source)


@pytest.mark.parametrize(
    "source", ["{{ x.items }}", "{{ x['items'] }}", "{{ x.__class__ }}", "{{ x[1] }}", "{{ x[y] }}"]
)
def test_what_dicts_have_besides_keys_is_left_to_the_sandbox(source: str) -> None:
    assert "is dict" not in code(source)


@pytest.mark.parametrize("source", ["{{ x.strip() }}", "{{ x.startswith('a') }}", "{{ x.split(y.z['k']) }}"])
def test_methods_of_texts_are_called_directly(source: str) -> None:
    assert " is str else environment.call(" in code(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ x.format('a') }}",
        "{{ x.format_map(y) }}",
        "{{ x.strip(y.strip()) }}",
        "{{ x.split(sep='a') }}",
        "{{ x.pop() }}",
    ],
)
def test_other_calls_are_left_to_the_sandbox(source: str) -> None:
    assert ", 'strip', " not in code(source)
    assert code(source).count("environment.call(") >= 1


def test_no_method_that_reads_attributes_counts_as_harmless() -> None:
    assert not {"format", "format_map"} & TEXT_METHODS
    assert not [name for name in TEXT_METHODS if name.startswith("_")]


def test_a_long_text_is_put_together_at_once() -> None:
    assert code("{{ '<' + x.role + '>' + x.content + '!' }}").count(" + ") == len(["role", ">", "content", "!"])
    assert "f'{" not in code("{{ x + y + z }}")
    assert "f'{" not in code("{{ 1 + x + y }}")


def test_a_sum_with_wide_letters_is_written_term_by_term() -> None:
    source = "{{ '<｜User｜>' + x.content + '!' }}"
    for line in ("yield '<｜User｜>'", "yield o_1", "yield '!'", "yield str('<｜User｜>' + o_1 + '!')"):
        assert line in [written.strip() for written in code(source).splitlines()]
    for other in ("{{ '<|User|>' + x.content }}", "{{ '｜' ~ x }}", "{% macro f(x) %}{{ '｜' + x }}{% endmacro %}"):
        assert "yield o_1" not in code(other)
    assert "yield o_1" not in code("{% autoescape true %}{{ '｜' + x }}{% endautoescape %}")


def test_what_is_set_of_a_namespace_is_read_and_written_directly() -> None:
    written = code("{% set ns = namespace() %}{% set ns.x = 1 %}{{ ns.x }}{{ ns.items }}{{ y.x }}")
    assert "read_plainly(l_0_ns, '_Namespace__attrs')['x'] = 1" in written
    assert written.count(" is ChatNamespace and ") == 1
    assert "environment.getattr((undefined(name='ns')" in written, "what is a method of dicts is left to the sandbox"
    assert "read_plainly(" not in code("{% set ns._x = 1 %}{{ ns._x }}").replace("import", "")


def test_absent_keys_are_known_beforehand() -> None:
    environment = CompilingEnvironment(extensions=())
    environment.from_string("{{ x.role }}{{ x['content'] }}")
    assert set(environment.absent) == {"role", "content"}
    assert environment.from_string("{{ x.role }}|{{ x.role is defined }}").render(x={}) == "|False"
