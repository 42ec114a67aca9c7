"""Developer messages for templates that do not know them; the engine's own answers are in ``tests/conformance``."""

from typing import Any

from extproc.prompt.system_messages import without_developers

USER: dict[str, Any] = {"role": "user", "content": "u"}


def test_without_developers_nothing_is_touched() -> None:
    conversation = [USER, {"role": "system", "content": "late"}, {"role": "system", "content": "later"}]
    assert without_developers(conversation) is conversation


def test_a_developer_in_front_becomes_the_system() -> None:
    developer = {"role": "developer", "content": "d", "name": "n", "tools": []}
    assert without_developers([developer, USER]) == [{"role": "system", "content": "d", "name": "n"}, USER]
    assert developer["role"] == "developer"


def test_all_systems_become_one_in_front() -> None:
    conversation = [USER, {"role": "developer", "content": "a"}, {"role": "system", "content": ""}, USER]
    conversation.append({"role": "developer", "content": [{"type": "text", "text": "b"}, {"type": "image"}]})
    assert without_developers(conversation) == [{"role": "system", "content": "a\n\nb"}, USER, USER]
