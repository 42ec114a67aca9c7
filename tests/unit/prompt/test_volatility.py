"""What is known of a template's output besides its inputs."""

from datetime import datetime, timedelta

import pytest

from extproc.prompt.chat_template import ChatTemplate

NOW = datetime(2025, 2, 3, 4, 5, 6)  # noqa: DTZ001 - templates show the local time
DAY = "{{ strftime_now('%d %b %Y') }}"


def volatile(source: str, now: datetime = NOW) -> str | None:
    return ChatTemplate(source, special_tokens={}).volatile(now)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "{{ messages[0].content }}",
        "{{ cycler(1, 2).next() }}",
        "{{ messages | map(attribute='random') | list }}",
        "{{ messages | map('upper') | list }}",
        "{% if strftime_now is defined %}x{% endif %}",
        "{{ random }}",
    ],
)
def test_ordinary_templates_depend_on_their_input_alone(source: str) -> None:
    assert volatile(source) == ""


def test_a_template_that_shows_the_day_changes_with_the_day() -> None:
    assert volatile(DAY) == "03 Feb 2025"
    assert volatile(DAY, NOW + timedelta(hours=1)) == volatile(DAY)
    assert volatile(DAY, NOW + timedelta(days=1)) != volatile(DAY)


@pytest.mark.parametrize(
    "source",
    [
        DAY + "{{ strftime_now('%H') }}",
        "{{ strftime_now(format='%H') }}" + DAY,
        "{% if x %}{{ strftime_now('%H') }}{% elif strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}",
    ],
)
def test_every_format_counts(source: str) -> None:
    assert volatile(source) == "03 Feb 2025\x0004" or volatile(source) == "04\x0003 Feb 2025"
    assert volatile(source, NOW + timedelta(hours=1)) != volatile(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ strftime_now(form) }}",
        "{{ strftime_now() }}",
        "{{ strftime_now(*x) }}",
        "{{ strftime_now('%d', **x) }}",
        "{{ strftime_now('%d', '%H') }}",
        "{% set now = strftime_now %}{{ now('%S') }}",
        "{{ strftime_now('%' ~ 'd', 1) }}",
        "{{ [1, 2] | random }}",
        "{{ lipsum() }}",
        "{{ [[1]] | map('random') | list }}",
        "{{ [[1]] | map(x) | list }}",
        "{{ [[1]] | map(*x) | list }}",
        "{% filter random %}abc{% endfilter %}",
    ],
)
def test_what_cannot_be_told_beforehand_is_said(source: str) -> None:
    assert volatile(source) is None
