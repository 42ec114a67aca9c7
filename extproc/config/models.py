"""One configured model: where its tokenizer is and what sets its prompts apart from those of other models."""

import dataclasses
from typing import Literal

from extproc.config.setting import setting


@dataclasses.dataclass(frozen=True, slots=True)
class ModelSpec:
    """One entry of the `models` list."""

    name: str = setting("", "The `model` of requests and of workers. Required; unique, as all names of models are.")
    source: str = setting(
        "",
        "Where its tokenizer is: a directory in Hugging Face layout, a `tokenizer.json` or tiktoken file, "
        "`package:NAME` (an installed Python package that ships one), or the id `ORG/NAME` of a model on the hub. "
        "Empty: the name. A source that cannot be used is reported when it is loaded; the other models work.",
    )
    revision: str = setting("", "Revision on the hub. Empty: its main one.")
    allow_download: bool = setting(
        False,  # noqa: FBT003
        "Ask the hub for what is not on this machine. Else nothing but local files is used.",
    )
    aliases: tuple[str, ...] = setting((), "Further names of the same model.")
    lora_adapters: tuple[str, ...] = setting(
        (), "Names of the LoRA adapters served on it: the same tokens, but cached prefixes of their own."
    )
    chat_template_file: str = setting("", "Chat template in place of the model's own. Empty: the model's own.")
    content_format: Literal["auto", "string", "openai"] = setting(
        "auto",
        "What the chat template gets as the content of a message, text or a list of parts; as vLLM's "
        "`--chat-template-content-format`.",
    )
    default_chat_template_kwargs: str = setting(
        "", "JSON object of variables for the chat template; as vLLM's option of that name. Empty: none."
    )
    exclude_tools_when_tool_choice_none: bool = setting(
        False,  # noqa: FBT003
        "Hide the tools of a request with `tool_choice: none` from the template; as vLLM's option of that name.",
    )
    trust_request_chat_template: bool = setting(
        False,  # noqa: FBT003
        "Use a chat template that a request brings along; as vLLM's option of that name. For clients you trust: such a "
        "template is a program, and one that never ends keeps a thread of a router.",
    )
    tiktoken_pattern: str = setting(
        "",
        "For a tiktoken file: the name of a known split pattern (`cl100k`, `o200k`, `qwen`, ...) or a regular "
        "expression. Empty: the usual one.",
    )
    block_size: int = setting(16, "Tokens in one KV block of the engine.", unit="tokens", low=1, high=1024)
    policy: str = setting("", "Load-balancing policy of its requests. Empty: `routing.policy`.")
    max_requests: int = setting(
        0, "Its requests in flight over all routers; 0: no limit.", unit="requests", low=0, high=10_000_000
    )
    max_tokens: int = setting(
        0, "Its tokens in flight, as `admission.max_tokens`; 0: no limit.", unit="tokens", low=0, high=1 << 50
    )
