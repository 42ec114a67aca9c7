"""``continue_final_message``: a prompt that ends inside the last message, for the model to go on with it.

As in the `transformers` library, a mark is put behind the message before it is rendered, and the text is cut there.
No refusal here quotes the message.
"""

from typing import Any

from extproc.errors import InvalidRequest

_MARK = "CONTINUE_FINAL_MESSAGE_TAG "
_PARAM = "continue_final_message"


def mark_end(messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """Return the messages with a mark behind the last one, and its unmarked text.

    The given messages stay as they are. Raises ``InvalidRequest`` when the last message has no text.
    """
    content = messages[-1].get("content")
    if isinstance(content, str):
        final, marked = content, content + _MARK
    else:
        final, marked = _mark_last_text(content)
    return [*messages[:-1], {**messages[-1], "content": marked}], final


def _mark_last_text(parts: Any) -> tuple[str, Any]:  # noqa: ANN401
    for index in range(len(parts) - 1 if isinstance(parts, list) else -1, -1, -1):
        part = parts[index]
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            text = part["text"]
            return text, [*parts[:index], {**part, "text": text + _MARK}, *parts[index + 1 :]]
    raise InvalidRequest("The final message has no text to continue.", param=_PARAM)


def cut_at_mark(rendered: str, final: str) -> str:
    """Return ``rendered`` up to the mark; white space before it goes when the template trimmed the message.

    Raises ``InvalidRequest`` when the template left the message out, or changed it.
    """
    at = rendered.rfind(_MARK.strip())
    if at < 0 or final.strip() not in rendered:
        raise InvalidRequest("The chat template does not render the final message as it is.", param=_PARAM)
    return rendered[:at] if rendered.startswith(_MARK, at) else rendered[:at].rstrip()
