"""Developer messages, for templates that do not know them: they become system messages, and these become one.

Templates that know system messages alone often want a single one, in front.
"""

from typing import Any


def without_developers(conversation: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the conversation unchanged when no message is a developer's, else without such messages."""
    if not any(message["role"] == "developer" for message in conversation):
        return conversation
    converted = [_as_system(message) if message["role"] == "developer" else message for message in conversation]
    if all(message["role"] != "system" for message in converted[1:]):
        return converted
    texts = [_text(message.get("content", "")) for message in converted if message["role"] == "system"]
    merged = {"role": "system", "content": "\n\n".join(text for text in texts if text)}
    return [merged, *(message for message in converted if message["role"] != "system")]


def _as_system(message: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name != "tools"} | {"role": "system"}


def _text(content: Any) -> str:  # noqa: ANN401
    if not isinstance(content, list):
        return str(content)
    return "\n".join(part["text"] for part in content if "text" in part)
