"""The variables that a request hands to its chat template, merged as vLLM merges them."""

from typing import Any, NamedTuple

import msgspec

from extproc.api.body import decode_field, is_given

_UNKNOWN = frozenset(
    (
        "conversation", "max_length", "padding", "return_assistant_tokens_mask", "return_dict", "return_tensors",
        "sanitize_control_tokens", "tokenizer_kwargs", "tools", "truncation",
    )
)  # fmt: skip
"""Variables that the engine takes for arguments of its tokenizer: what becomes of the prompt is not known."""

_OVERRIDDEN = ("add_generation_prompt", "continue_final_message")
"""Variables that always have the value of the field of the same name."""

_kwargs = msgspec.json.Decoder(dict[str, Any] | None)


class TemplateVariables(NamedTuple):
    """``kwargs`` are what the template gets besides messages and tools; ``documents`` are taken out of it."""

    kwargs: dict[str, Any]
    documents: Any


def template_variables(raw: msgspec.Raw, *, effort: str | None = None) -> TemplateVariables | None:
    """Merge ``chat_template_kwargs`` with what else the request says; None when the prompt cannot be known.

    A variable that is null or "auto" counts as not given. ``effort`` is how much the model is to think. It wins over
    the variable, and switches thinking on or off unless the request says so itself.
    Raises :class:`~extproc.errors.InvalidRequest`.
    """
    given = (decode_field(_kwargs, raw, "chat_template_kwargs") or {}) if is_given(raw) else {}
    if effort is not None:
        given.setdefault("enable_thinking", effort != "none")
        if effort != "auto":
            given["reasoning_effort"] = effort
    kwargs = {name: value for name, value in given.items() if value is not None and value != "auto"}
    if not _UNKNOWN.isdisjoint(kwargs):
        return None
    for name in _OVERRIDDEN:
        kwargs.pop(name, None)
    return TemplateVariables(kwargs, kwargs.pop("documents", None))
