"""One model: from a request body to the token ids that its engine will see."""

import dataclasses
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from extproc.api.anthropic_conversion import merge_inline_system
from extproc.api.body import RequestBody
from extproc.api.prompt_input import ChatInput, TextInput
from extproc.config.models import ModelSpec
from extproc.errors import InvalidRequest, ModelUnusable
from extproc.index.block_hash import Ids, block_hashes, root_hash
from extproc.models.files import ModelFiles, read_files
from extproc.models.templates import ModelTemplates
from extproc.prompt.conversation import Conversation, to_conversation
from extproc.shm.token_rows import Key
from extproc.shm.token_store import TokenStore
from extproc.tokens.backend import Backend, choose_backend
from extproc.tokens.boundaries import MAX_BOUNDARY_TOKENS, Boundaries, safe_tokens
from extproc.tokens.encoder import INTERRUPTS
from extproc.tokens.prompt_cache import Encoding, Namespace, PromptCache, namespace_key
from extproc.tokens.prompt_tokens import PromptTokens
from extproc.tokens.tiktoken_file import DEFAULT_PATTERN, read_tiktoken
from extproc.tokens.tokenizer_file import TokenizerFile, build

_NOT_IDENTITY = ("aliases", "lora_adapters", "allow_download", "source", "revision", "chat_template_file")
"""Settings of a model that do not change what its prompts become; the content of its files has a hash of its own."""

_NO_IDS: Ids = np.empty(0, dtype=np.uint32)


class WholeKey(NamedTuple):
    """What a whole prompt is known by at level 0; ``moment`` is what of the present it contains."""

    namespace: Namespace
    key: Key
    moment: bytes


class TooManyPrompts(Exception):  # noqa: N818 - as the condition is called everywhere
    """A request has more prompts than may be prepared."""


class Model:
    """A loaded model. Everything may be called from several threads at once."""

    def __init__(
        self,
        *,
        spec: ModelSpec,
        files: ModelFiles,
        tokenizer: TokenizerFile,
        backend: Backend,
        templates: ModelTemplates,
        store: TokenStore | None,
        min_prefix_bytes: int = 0,
    ) -> None:
        self.spec = spec
        self.backend = backend
        self.templates = templates
        # Not the reference, which takes as much memory again as an encoder.
        self._before, self._after = tokenizer.before, tokenizer.after
        self._store = store
        self._min_prefix_bytes = min_prefix_bytes
        self.surroundings = len(tokenizer.before), len(tokenizer.after)
        """How many tokens are put before and after a text that asks for special tokens."""
        self._system_first = templates.wants_system_first
        self._can_stop_thinking = templates.can_stop_thinking
        self._timeless = templates.timeless
        self._default_kwargs: dict[str, Any] = json.loads(spec.default_chat_template_kwargs or "{}")
        settings = {name: value for name, value in dataclasses.asdict(spec).items() if name not in _NOT_IDENTITY}
        self._identity = (json.dumps(settings).encode(), files.revision, backend.encoder.name.encode())
        self.fingerprint = int.from_bytes(namespace_key(self._identity)[:8], "little") or 1
        self._namespaces: dict[tuple[bytes, str, bool], Namespace] = {}
        self._set_boundaries(self._safe_tokens(tokenizer) if store is not None else [])

    def without_prefixes(self) -> None:
        """Use prefixes of this model no more, nor anything that was put together from them."""
        self._set_boundaries([])

    @property
    def uses_prefixes(self) -> bool:
        """Whether level 1 of the cache is on."""
        return bool(self.cache.boundaries.tokens)

    def whole_key(self, body: RequestBody, adapter: str, parts: Sequence[bytes]) -> "WholeKey | None":
        """Return the level 0 key of a body's prompt, without looking into it; None when it cannot have one.

        ``parts`` are the body's :meth:`~extproc.api.body.RequestBody.prompt_parts`.
        """
        if self._store is None:
            return None
        moment = self._moment()
        if moment is None:
            return None
        namespace = self.namespace(adapter=adapter, cache_salt=body.cache_salt or "")
        return WholeKey(namespace, self.cache.key_of((moment, *parts), namespace), moment)

    def recall(self, key: "WholeKey") -> PromptTokens | None:
        """Return the prompt with a level 0 key, if it is known."""
        return self.cache.find(key.key, key.namespace)

    def prepare(
        self, body: RequestBody, adapter: str, key: "WholeKey | None", *, most: int | None = None
    ) -> "list[Encoding | PromptTokens]":
        """Return the prompts of a body, each known or on its way; raises :class:`InvalidRequest`.

        Raises :class:`TooManyPrompts` where there are more than ``most``.
        """
        salt = body.cache_salt or ""
        prompt = body.prompt_input()
        if isinstance(prompt, ChatInput):
            pieces, conversation = self.render_pieces(prompt)
            special, exact, media = prompt.add_special_tokens, conversation.exact, conversation.media
            namespace = self.namespace(adapter=adapter, cache_salt=salt, media=media, special=special)
            own_template = prompt.chat_template is not None
            if media or own_template or (key is not None and key.moment != self._moment()):
                # Media set the root of the block hashes, which the cache does not keep; and a template may have written
                # another time than that of the key, as one of the request's own always may.
                key = None
            return [self._begin(pieces, namespace, key, special=special, exact=exact)]
        prompts = () if prompt is None else prompt.texts if isinstance(prompt, TextInput) else prompt.prompts
        if most is not None and len(prompts) > most:
            raise TooManyPrompts
        if isinstance(prompt, TextInput):
            special = prompt.add_special_tokens
            namespace = self.namespace(adapter=adapter, cache_salt=salt, special=special)
            only = key if len(prompt.texts) == 1 else None
            return [self._begin(text, namespace, only, special=special) for text in prompt.texts]
        namespace = self.namespace(adapter=adapter, cache_salt=salt)
        return [self._given(ids, namespace) for ids in prompt.prompts] if prompt is not None else []

    def truncated(self, tokens: PromptTokens, body: RequestBody) -> PromptTokens:
        """Cut a prompt as vLLM does for ``truncate_prompt_tokens``.

        A negative limit stands for the longest prompt that the engine takes, which is not known here, and cuts nothing.
        """
        limit = body.truncate_prompt_tokens
        if limit is None or limit < 0 or limit >= len(tokens.ids):
            return tokens
        side = body.truncation_side or body.default_truncation_side
        ids = tokens.ids[:limit] if side == "right" else tokens.ids[len(tokens.ids) - limit :]
        hashes = block_hashes(ids, block_size=tokens.block_size, before=tokens.root)
        # Where no side is named vLLM lets the tokenizer cut, which then keeps the tokens that surround a text.
        exact = tokens.exact and (body.truncation_side is not None or not any(self.surroundings))
        return tokens._replace(ids=ids, block_hashes=hashes, exact=exact)

    def render(self, prompt: ChatInput) -> tuple[str, Conversation]:
        """Return the text of a message list and the messages as the template got them."""
        pieces, conversation = self.render_pieces(prompt)
        return "".join(pieces), conversation

    def render_pieces(self, prompt: ChatInput) -> tuple[list[str], Conversation]:
        """The same with the text in the pieces that the template wrote."""
        tools = None if prompt.tool_choice_none and self.spec.exclude_tools_when_tool_choice_none else prompt.tools
        if prompt.chat_template is None:
            template = self.templates.select(tools=tools is not None)
        elif self.spec.trust_request_chat_template:
            template = self.templates.of_request(prompt.chat_template)
        else:
            words = (
                "A chat template of the request's own is not allowed; `trust_request_chat_template` lets it be used."
            )
            raise InvalidRequest(words, param="chat_template")
        messages = merge_inline_system(prompt.messages) if self._merges_system(prompt) else prompt.messages
        kwargs = prompt.kwargs
        if prompt.low_effort_kwargs is not None and not self._can_stop_thinking:
            kwargs = prompt.low_effort_kwargs
        conversation = to_conversation(messages, content_format=self.templates.format_of(template))
        pieces = template.pieces(
            conversation.messages,
            tools=tools,
            documents=prompt.documents,
            add_generation_prompt=prompt.add_generation_prompt,
            continue_final_message=prompt.continue_final_message,
            kwargs=self._default_kwargs | kwargs if self._default_kwargs else kwargs,
        )
        return pieces, conversation

    def namespace(
        self, *, adapter: str, cache_salt: str, media: Sequence[bytes] = (), special: bool = False
    ) -> Namespace:
        """Return what sets the prompts of an adapter, a salt, some media and a use of special tokens apart."""
        plain = not (cache_salt or media)
        # Read once: the use of prefixes may end meanwhile, and what then counts must not get the namespace from before.
        epoch = self._epoch
        if plain and (known := self._namespaces.get((epoch, adapter, special))):
            return known
        parts = (*self._identity, epoch, adapter.encode(), cache_salt.encode(), bytes((special,)), *media)
        root = root_hash(model=self.spec.name, lora=adapter, cache_salt=cache_salt, media=media)
        namespace = Namespace(namespace_key(parts), root, self.spec.block_size)
        if plain:
            # Bounded by the adapters that the configuration names.
            self._namespaces[epoch, adapter, special] = namespace
        return namespace

    def _merges_system(self, prompt: ChatInput) -> bool:
        return prompt.inline_system and self._system_first

    def _set_boundaries(self, tokens: list[Any]) -> None:
        boundaries = Boundaries(tokens)
        # Readers take the epoch first and the cache then, so the cache is set first: nobody uses prefixes in the epoch
        # that has none.
        self.cache = PromptCache(
            store=self._store,
            encoder=self.backend.encoder,
            boundaries=boundaries,
            min_prefix_bytes=self._min_prefix_bytes,
        )
        self._epoch = b"prefixes" if tokens else b"whole"

    def _safe_tokens(self, tokenizer: TokenizerFile) -> list[Any]:
        added = tokenizer.added
        candidates = self.templates.written_tokens(added)
        if not self.templates and len(added) <= MAX_BOUNDARY_TOKENS:
            candidates = list(added)
        return safe_tokens(candidates, added=added, normalizes=tokenizer.normalizes, encoder=self.backend.encoder)[
            :MAX_BOUNDARY_TOKENS
        ]

    def _moment(self) -> bytes | None:
        """Return what templates write of the present moment; None when that cannot be told."""
        if self._timeless:
            return b""
        volatile = self.templates.volatile(datetime.now().astimezone())
        return None if volatile is None else volatile.encode()

    def _begin(
        self,
        text: str | list[str],
        namespace: Namespace,
        key: WholeKey | None,
        *,
        special: bool,
        exact: bool = True,
    ) -> "Encoding | PromptTokens":
        try:
            encoding = self.cache.begin(
                text,
                namespace,
                key=None if key is None else key.key,
                before=self._before if special else _NO_IDS,
                after=self._after if special else _NO_IDS,
                exact=exact,
            )
        except UnicodeEncodeError as error:
            raise InvalidRequest("The prompt contains lone surrogates, which no text has.") from error
        return encoding.known or encoding

    def _given(self, ids: Ids, namespace: Namespace) -> PromptTokens:
        hashes = block_hashes(ids, block_size=namespace.block_size, before=namespace.root)
        return PromptTokens(ids, hashes, namespace.block_size, namespace.root, "given")


def load_model(
    spec: ModelSpec,
    *,
    source: Path,
    wanted: Literal["auto", "tokenizers"],
    store: TokenStore | None,
    min_prefix_bytes: int = 0,
) -> Model:
    """Read, check and try a model; takes up to seconds. Raises :class:`ModelUnusable` naming the file at fault."""
    files = read_files(source, spec)
    vocabulary = _vocabulary(files, spec)
    try:
        tokenizer = build(
            vocabulary,
            config=files.config,
            special_tokens=files.special_tokens,
            added_tokens=files.added_tokens,
            model_type=files.model_type,
            is_tiktoken=files.tokenizer.suffix != ".json",
        )
    except Exception as error:
        # Whatever the values of a wrong type lead to.
        raise ModelUnusable(f"{files.tokenizer.parent / 'tokenizer_config.json'}: {error}") from error
    try:
        templates = ModelTemplates(
            files.templates, special_tokens=tokenizer.special_tokens, content_format=spec.content_format
        )
    except ModelUnusable as error:
        raise ModelUnusable(f"{files.tokenizer.parent}: {error}") from error
    try:
        return Model(
            spec=spec,
            files=files,
            tokenizer=tokenizer,
            backend=choose_backend(tokenizer, wanted),
            templates=templates,
            store=store,
            min_prefix_bytes=min_prefix_bytes,
        )
    except Exception as error:
        raise ModelUnusable(f"{files.tokenizer}: fails when it is tried: {error}") from error


def _vocabulary(files: ModelFiles, spec: ModelSpec) -> Tokenizer:
    try:
        if files.tokenizer.suffix == ".json":
            return Tokenizer.from_buffer(files.vocabulary)
        added = files.config.get("added_tokens_decoder", {})
        special = {int(number): token["content"] for number, token in added.items()}
        pattern = spec.tiktoken_pattern or DEFAULT_PATTERN
        return read_tiktoken(files.vocabulary, pattern=pattern, special_tokens=special)
    except INTERRUPTS:
        raise
    except BaseException as error:
        raise ModelUnusable(f"{files.tokenizer}: not a tokenizer: {error}") from error
