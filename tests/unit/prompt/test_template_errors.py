"""What is told of a failure, and what is kept back."""

import pytest
from jinja2.exceptions import TemplateError, UndefinedError

from extproc.errors import InvalidRequest
from extproc.prompt.template_errors import refusal


def test_a_template_has_its_own_words() -> None:
    answer = refusal(TemplateError("Roles must alternate."))
    assert isinstance(answer, InvalidRequest)
    assert (answer.message, answer.param) == ("Roles must alternate.", "messages")
    assert refusal(UndefinedError("'x' is undefined")).message == "'x' is undefined"
    assert refusal(TemplateError()).message


@pytest.mark.parametrize("link", ["__cause__", "__context__"])
def test_the_templates_words_are_found_behind_another_error(link: str) -> None:
    outer = ValueError("outer")
    setattr(outer, link, TemplateError("inner"))
    assert refusal(outer).message == "inner"


@pytest.mark.parametrize(
    "error",
    [
        TypeError('can only concatenate str (not "list") to str'),
        TypeError("'<' not supported between instances of 'str' and 'int'"),
        ZeroDivisionError("division by zero"),
        RecursionError("maximum recursion depth exceeded"),
        OverflowError("Range too big."),
    ],
)
def test_what_speaks_of_types_is_told(error: Exception) -> None:
    assert f"{type(error).__name__}: {error}" in refusal(error).message


@pytest.mark.parametrize(
    "error",
    [
        KeyError("secret"),
        ValueError("invalid literal: 'secret'"),
        TypeError("f() takes no keyword argument 'secret'"),
        TypeError('unexpected "secret"'),
        UnicodeEncodeError("utf-8", "secret", 0, 1, "secret"),
        RuntimeError("secret"),
    ],
)
def test_what_may_quote_the_prompt_is_kept_back(error: Exception) -> None:
    message = refusal(error).message
    assert type(error).__name__ in message
    assert "secret" not in message
