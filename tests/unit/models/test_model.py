"""A model: from a request body to the token ids of its engine, and what sets its prompts apart in the cache."""

from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from tokenizers import Tokenizer

from extproc.api.prompt_input import ChatInput
from extproc.config.models import ModelSpec
from extproc.errors import InvalidRequest
from extproc.index.block_hash import block_hashes
from extproc.models.model import Model, load_model
from extproc.shm.token_store import TokenStore
from extproc.tokens.prompt_cache import Encoding
from extproc.tokens.prompt_tokens import PromptTokens
from tests.support.models import make_model
from tests.support.readers import CHAT, Reading, make_spec, parse
from tests.support.stores import make_segment, open_store

COMPLETIONS = "/v1/completions"
HELLO = [{"role": "user", "content": "Hello, world!"}]
TOOL = {"type": "function", "function": {"name": "look_up", "description": "d", "parameters": {"type": "object"}}}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/1.png"}}
OTHER_IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/2.png"}}


def load(directory: Path, kind: str, store: TokenStore | None = None, **settings: Any) -> Model:  # noqa: ANN401
    spec = ModelSpec(**{"name": kind, "source": str(make_model(directory / kind, kind)), **settings})
    return load_model(spec, source=Path(spec.source), wanted="tokenizers", store=store)


def with_template(directory: Path, template: str, **settings: Any) -> Model:  # noqa: ANN401
    """A model with a cache and a template of its own making."""
    file = directory / "configured.jinja"
    file.write_text(template)
    return load(directory, "qwen", open_store(make_segment()), chat_template_file=str(file), **settings)


def prompts(model: Model, path: str = CHAT, *, adapter: str = "", **fields: Any) -> list[PromptTokens]:  # noqa: ANN401
    """Take a body's prompts through all steps."""
    body = parse(path, model=model.spec.name, **fields)
    parts = body.prompt_parts()
    assert parts is not None
    key = model.whole_key(body, adapter, parts)
    known = None if key is None else model.recall(key)
    if known is not None:
        return [known]
    prepared = model.prepare(body, adapter, key)
    return [prompt if isinstance(prompt, PromptTokens) else prompt.finish(prompt.encode()) for prompt in prepared]


def chat(model: Model, messages: list[dict[str, Any]] = HELLO, **fields: Any) -> PromptTokens:  # noqa: ANN401
    (prompt,) = prompts(model, messages=messages, **fields)
    return prompt


def text_of(model: Model, messages: list[Any] = HELLO, **fields: Any) -> str:  # noqa: ANN401
    return model.render(ChatInput(messages=messages, **fields))[0]


def reference(model: Model) -> Tokenizer:
    return Tokenizer.from_file(str(Path(model.spec.source) / "tokenizer.json"))


def whole(model: Model, text: str, *, special: bool = False) -> list[int]:
    ids: list[int] = reference(model).encode(text, add_special_tokens=special).ids
    return ids


def clock_at(moment: datetime) -> type[datetime]:
    """A clock that stands still."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp(moment.timestamp(), tz)

    return Clock


@pytest.fixture
def store() -> TokenStore:
    return open_store(make_segment())


@pytest.mark.parametrize("kind", ["qwen", "llama3", "mistral_metaspace", "unigram"])
def test_a_chat_becomes_the_ids_of_its_rendered_text_and_their_block_hashes(kind: str, tmp_path: Path) -> None:
    model = load(tmp_path, kind, block_size=4)
    prompt = chat(model)
    assert prompt.ids.tolist() == whole(model, text_of(model))
    assert np.array_equal(prompt.block_hashes, block_hashes(prompt.ids, block_size=4, before=prompt.root))
    assert (prompt.block_size, prompt.cache, prompt.exact) == (4, "off", True)
    assert prompt.text_bytes == len(text_of(model).encode())


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("kind", ["llama3", "wordpiece", "qwen"])
def test_a_text_is_surrounded_by_special_tokens_where_it_is_asked_for(kind: str, asked: bool, tmp_path: Path) -> None:
    model = load(tmp_path, kind)
    (prompt,) = prompts(model, COMPLETIONS, prompt="Hello, world!", add_special_tokens=asked)
    assert prompt.ids.tolist() == whole(model, "Hello, world!", special=asked)


def test_the_use_of_special_tokens_is_kept_apart_in_the_cache(tmp_path: Path, store: TokenStore) -> None:
    model = load(tmp_path, "llama3", store)
    text = "Hello<|eot_id|>, world!"
    for asked, cache in ((True, "miss"), (False, "miss"), (True, "level_0"), (False, "level_0")):
        (prompt,) = prompts(model, COMPLETIONS, prompt=text, add_special_tokens=asked)
        assert prompt.ids.tolist() == whole(model, text, special=asked)
        assert prompt.cache == cache


def test_every_text_of_a_list_is_a_prompt(tmp_path: Path, store: TokenStore) -> None:
    model = load(tmp_path, "qwen", store)
    texts = ["Hello", "Hello, world", "world"]
    for cache in ("miss", "level_0"):
        found = prompts(model, COMPLETIONS, prompt=texts)
        assert [prompt.ids.tolist() for prompt in found] == [whole(model, text) for text in texts]
        assert [prompt.cache for prompt in found] == [cache] * 3


@pytest.mark.parametrize(
    ("given", "expected"), [([5, 6, 7, 8], [[5, 6, 7, 8]]), ([[5, 6], [7, 8, 9, 4]], [[5, 6], [7, 8, 9, 4]])]
)
def test_ids_that_are_given_are_taken(given: list[Any], expected: list[list[int]], tmp_path: Path) -> None:
    model = load(tmp_path, "llama3", open_store(make_segment()), block_size=2)
    for _ in range(2):
        found = prompts(model, COMPLETIONS, prompt=given)
        assert [prompt.ids.tolist() for prompt in found] == expected
        for prompt in found:
            assert (prompt.cache, prompt.text_bytes) == ("given", 0)
            assert np.array_equal(prompt.block_hashes, block_hashes(prompt.ids, block_size=2, before=prompt.root))


def test_ids_that_are_given_share_blocks_with_the_text_that_has_them(tmp_path: Path) -> None:
    model = load(tmp_path, "qwen", block_size=2)
    (text,) = prompts(model, COMPLETIONS, prompt="Hello, world, and hello again!")
    (ids,) = prompts(model, COMPLETIONS, prompt=text.ids.tolist())
    assert len(ids.block_hashes) > 1
    assert np.array_equal(ids.block_hashes, text.block_hashes)


def test_a_second_time_the_prompt_is_known_without_rendering_it(tmp_path: Path, store: TokenStore) -> None:
    model = load(tmp_path, "qwen", store, block_size=4)
    first = chat(model)
    body = parse(CHAT, model="qwen", messages=HELLO)
    parts = body.prompt_parts()
    assert parts is not None
    key = model.whole_key(body, "", parts)
    assert key is not None
    again = model.recall(key)
    assert again is not None
    assert (first.cache, again.cache) == ("miss", "level_0")
    assert np.array_equal(again.ids, first.ids)
    assert np.array_equal(again.block_hashes, first.block_hashes)
    assert again[2:4] == first[2:4]
    assert (again.text_bytes, again.reused_bytes, again.reused_tokens) == (
        first.text_bytes,
        first.text_bytes,
        len(first.ids),
    )


def test_another_way_to_say_the_same_is_known_by_its_text(tmp_path: Path, store: TokenStore) -> None:
    model = load(tmp_path, "qwen", store)
    first = chat(model)
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hello, world!"}]}]
    again = chat(model, parts)
    assert again.cache == "level_0"
    assert np.array_equal(again.ids, first.ids)


def test_what_continues_a_known_prompt_is_encoded_alone(tmp_path: Path, store: TokenStore) -> None:
    model = load(tmp_path, "qwen", store)
    first = chat(model)
    messages = [*HELLO, {"role": "assistant", "content": "Hi!"}, {"role": "user", "content": "How are you?"}]
    longer = chat(model, messages)
    assert longer.cache == "level_1"
    assert longer.ids.tolist() == whole(model, text_of(model, messages))
    assert 0 < longer.reused_tokens < len(first.ids)


@pytest.mark.parametrize(
    ("setting", "value"), [("adapter", "lora"), ("cache_salt", "pepper")], ids=["adapter", "cache salt"]
)
def test_adapters_and_salts_have_the_same_ids_and_prefixes_of_their_own(
    setting: str, value: str, tmp_path: Path, store: TokenStore
) -> None:
    model = load(tmp_path, "qwen", store, block_size=4)
    plain = chat(model)
    apart = chat(model, HELLO, **{setting: value})
    assert np.array_equal(apart.ids, plain.ids)
    assert apart.cache == "miss"
    assert apart.root != plain.root
    assert not set(apart.block_hashes.tolist()) & set(plain.block_hashes.tolist())
    assert chat(model, HELLO, **{setting: value}).cache == "level_0"
    assert chat(model, HELLO, **{setting: value}).root == apart.root
    assert chat(model).root == plain.root


def test_an_adapter_and_a_salt_of_one_name_are_two_things(tmp_path: Path) -> None:
    model = load(tmp_path, "qwen")
    roots = {chat(model, HELLO, **which).root for which in ({}, {"adapter": "x"}, {"cache_salt": "x"})}
    assert len(roots) == 3


def of_media(*media: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, *media]}]


def test_media_set_prompts_of_one_text_apart_and_make_them_inexact(tmp_path: Path, store: TokenStore) -> None:
    model = load(tmp_path, "qwen", store, block_size=4)
    plain, first, other, both = (
        chat(model, of_media(*media)) for media in ((), (IMAGE,), (OTHER_IMAGE,), (IMAGE, OTHER_IMAGE))
    )
    assert [prompt.exact for prompt in (plain, first, other, both)] == [True, False, False, False]
    assert len({prompt.root for prompt in (plain, first, other, both)}) == 4
    assert [prompt.cache for prompt in (first, other)] == ["miss", "miss"]
    again = chat(model, of_media(IMAGE))
    assert (again.cache, again.exact, again.root) == ("level_0", False, first.root)
    assert np.array_equal(again.block_hashes, first.block_hashes)
    assert chat(model, of_media()).exact


def test_models_of_one_content_and_different_names_share_no_block(tmp_path: Path) -> None:
    one, other = (load(tmp_path, "qwen", name=name) for name in ("one", "other"))
    assert chat(one).ids.tolist() == chat(other).ids.tolist()
    assert chat(one).root != chat(other).root


def test_a_template_that_writes_the_time_is_rendered_anew(tmp_path: Path) -> None:
    model = with_template(tmp_path, "{{ strftime_now('%H:%M:%S.%f') }} {{ messages[0].content }}")
    tokenizer = reference(model)
    texts = [tokenizer.decode(chat(model).ids.tolist()) for _ in range(4)]
    assert len(set(texts)) == 4


def test_a_template_that_writes_the_date_is_known_all_day(tmp_path: Path) -> None:
    model = with_template(tmp_path, "{{ strftime_now('%Y') }} {{ messages[0].content }}")
    before = datetime.now().astimezone().year
    found = [chat(model) for _ in range(2)]
    if before == datetime.now().astimezone().year:
        assert found[1].cache == "level_0"
        assert reference(model).decode(found[1].ids.tolist()) == f"{before} Hello, world!"


def test_a_prompt_with_the_date_is_not_known_as_a_whole_on_another_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = with_template(tmp_path, "{{ strftime_now('%d %b %Y') }} {{ messages[0].content }}")
    body = parse(CHAT, model="qwen", messages=HELLO)
    keys = []
    for day in (1, 2):
        monkeypatch.setattr("extproc.models.model.datetime", clock_at(datetime(2025, 2, day, tzinfo=UTC)))
        key = model.whole_key(body, "", body.prompt_parts() or ())
        assert key is not None
        assert model.recall(key) is None
        (prompt,) = model.prepare(body, "", key)
        if isinstance(prompt, Encoding):
            prompt.finish(prompt.encode())
        assert model.recall(key) is not None
        keys.append(key.key)
    assert keys[0] != keys[1]


def test_a_prompt_that_is_read_over_midnight_is_not_kept_under_the_day_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = with_template(tmp_path, "{{ strftime_now('%d %b %Y') }} {{ messages[0].content }}")
    body = parse(CHAT, model="qwen", messages=HELLO)
    keys = []
    for day in (1, 2):
        monkeypatch.setattr("extproc.models.model.datetime", clock_at(datetime(2025, 2, day, tzinfo=UTC)))
        keys.append(model.whole_key(body, "", body.prompt_parts() or ()))
    before, after = keys
    assert before is not None
    assert after is not None
    for key, known in ((before, False), (after, True)):
        (prompt,) = model.prepare(body, "", key)
        if isinstance(prompt, Encoding):
            prompt.finish(prompt.encode())
        assert (model.recall(key) is not None) == known


def test_a_template_that_writes_by_chance_has_no_key_but_that_of_its_text(tmp_path: Path) -> None:
    model = with_template(tmp_path, "{{ ['a', 'a'] | random }}{{ messages[0].content }}")
    body = parse(CHAT, model="qwen", messages=HELLO)
    assert model.whole_key(body, "", body.prompt_parts() or ()) is None
    assert [chat(model).cache for _ in range(2)] == ["miss", "level_0"]


def test_a_template_that_a_request_brings_is_refused(tmp_path: Path) -> None:
    model = load(tmp_path, "qwen")
    with pytest.raises(InvalidRequest, match="trust_request_chat_template") as refused:
        chat(model, chat_template="{{ messages[0].content }}")
    assert refused.value.param == "chat_template"


def test_a_template_that_a_request_brings_is_used_where_that_is_trusted(tmp_path: Path, store: TokenStore) -> None:
    model = load(tmp_path, "qwen", store, trust_request_chat_template=True)
    own = chat(model)
    for _ in range(2):
        assert chat(model, chat_template="<{{ messages[0].content }}>").ids.tolist() == whole(model, "<Hello, world!>")
        assert np.array_equal(chat(model).ids, own.ids)


def test_the_time_in_a_template_that_a_request_brings_is_always_new(tmp_path: Path, store: TokenStore) -> None:
    model = load(tmp_path, "qwen", store, trust_request_chat_template=True)
    template = "{{ strftime_now('%H:%M:%S.%f') }} {{ messages[0].content }}"
    tokenizer = reference(model)
    texts = [tokenizer.decode(chat(model, chat_template=template).ids.tolist()) for _ in range(4)]
    assert len(set(texts)) == 4


@pytest.mark.parametrize(
    ("choice", "excluded", "expected"),
    [("none", True, False), ("none", False, True), ("auto", True, True), ("required", True, True)],
)
def test_tools_that_may_not_be_used_are_hidden_where_that_is_configured(
    choice: str, excluded: bool, expected: bool, tmp_path: Path, store: TokenStore
) -> None:
    model = load(tmp_path, "qwen", store, exclude_tools_when_tool_choice_none=excluded)
    with_tools = whole(model, text_of(model, tools=[TOOL]))
    assert chat(model, tools=[TOOL], tool_choice="auto").ids.tolist() == with_tools
    prompt = chat(model, tools=[TOOL], tool_choice=choice)
    assert (prompt.ids.tolist() == with_tools) is expected
    if not expected:
        assert prompt.ids.tolist() == whole(model, text_of(model))


def test_variables_of_the_template_come_from_the_request_first_then_from_the_settings(tmp_path: Path) -> None:
    template = "{{ one }} {{ two }} {{ messages[0].content }}"
    model = with_template(tmp_path, template, default_chat_template_kwargs='{"one": "a", "two": "b"}')
    assert text_of(model) == "a b Hello, world!"
    assert chat(model).ids.tolist() == whole(model, "a b Hello, world!")
    prompt = chat(model, chat_template_kwargs={"two": "c"})
    assert prompt.ids.tolist() == whole(model, "a c Hello, world!")
    assert chat(model).ids.tolist() == whole(model, "a b Hello, world!")


def test_a_template_that_refuses_says_why_in_its_own_words(tmp_path: Path) -> None:
    model = with_template(tmp_path, "{{ raise_exception('Roles must alternate.') }}")
    with pytest.raises(InvalidRequest) as refused:
        chat(model)
    assert (refused.value.message, refused.value.param) == ("Roles must alternate.", "messages")


@pytest.mark.parametrize(
    ("messages", "param"),
    [([], "messages"), ([{"content": "x"}], "messages[0].role"), ([*HELLO, 1], "messages[1]")],
    ids=["none", "no role", "no object"],
)
def test_messages_that_no_template_takes_are_refused(messages: list[Any], param: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat(load(tmp_path, "qwen"), messages)
    assert refused.value.param == param


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_lone_surrogates_are_refused(path: str, tmp_path: Path, store: TokenStore) -> None:
    content = "a\ud800b"
    fields = {"messages": [{"role": "user", "content": content}]} if path == CHAT else {"prompt": content}
    with pytest.raises(InvalidRequest):
        prompts(load(tmp_path, "qwen", store), path, **fields)


STRICT = (
    "{% for message in messages %}{% if message.role == 'system' and not loop.first %}{{ raise_exception('Late.') }}"
    "{% endif %}[{{ message.role }}]{{ message.content }}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (STRICT, "[system]onetwo[user]a"),
        (STRICT.replace("Late.", "").replace("{{ raise_exception('') }}", ""), "[system]one[user]a[system]two"),
    ],
    ids=["refuses", "takes"],
)
def test_late_system_messages_move_to_the_beginning_where_the_template_needs_it(
    template: str, expected: str, tmp_path: Path
) -> None:
    model = with_template(tmp_path, template)
    messages = [
        {"role": "system", "content": "one"},
        {"role": "user", "content": "a"},
        {"role": "system", "content": "two"},
    ]
    assert text_of(model, messages, inline_system=True) == expected
    if "Late." in template:
        with pytest.raises(InvalidRequest, match=r"Late\."):
            text_of(model, messages)


@pytest.mark.parametrize(
    ("limit", "side", "expected"),
    [
        (3, "left", [3, 4, 5]),
        (3, "right", [1, 2, 3]),
        (3, None, [3, 4, 5]),
        (0, "left", []),
        (0, "right", []),
        (5, "left", [1, 2, 3, 4, 5]),
        (9, "right", [1, 2, 3, 4, 5]),
        (-1, "left", [1, 2, 3, 4, 5]),
        (None, "left", [1, 2, 3, 4, 5]),
    ],
)
def test_a_prompt_is_cut_from_the_side_that_is_asked_for(
    limit: int | None, side: str | None, expected: list[int], tmp_path: Path
) -> None:
    model = load(tmp_path, "qwen", block_size=2)
    fields = {"model": "qwen", "truncate_prompt_tokens": limit, "truncation_side": side}
    (tokens,) = prompts(model, COMPLETIONS, prompt=[1, 2, 3, 4, 5])
    cut = model.truncated(tokens, parse(COMPLETIONS, prompt=[1, 2, 3, 4, 5], **fields))
    assert cut.ids.tolist() == expected
    assert np.array_equal(cut.block_hashes, block_hashes(cut.ids, block_size=2, before=tokens.root))
    assert cut.exact


def test_a_model_without_prefixes_finds_nothing_of_what_it_stored(tmp_path: Path, store: TokenStore) -> None:
    model = load(tmp_path, "qwen", store)
    first = chat(model)
    assert model.uses_prefixes
    model.without_prefixes()
    assert not model.uses_prefixes
    assert chat(model).cache == "miss"
    assert chat(model).cache == "level_0"
    assert chat(model, [*HELLO, *HELLO]).cache == "miss"
    assert np.array_equal(chat(model).ids, first.ids)
    assert chat(model).root == first.root


def test_a_tokenizer_without_safe_boundaries_has_whole_prompts_only(tmp_path: Path, store: TokenStore) -> None:
    model = load(tmp_path, "mistral_metaspace", store)
    assert not model.uses_prefixes
    assert [chat(model).cache for _ in range(2)] == ["miss", "level_0"]


def test_without_a_cache_everything_is_encoded(tmp_path: Path) -> None:
    model = load(tmp_path, "qwen")
    assert not model.uses_prefixes
    assert [chat(model).cache for _ in range(2)] == ["off", "off"]


def test_the_fingerprint_stands_for_content_and_settings_that_count(tmp_path: Path) -> None:
    first = load(tmp_path / "a", "qwen").fingerprint
    assert first
    assert load(tmp_path / "b", "qwen", aliases=("x",), lora_adapters=("y",)).fingerprint == first
    assert load(tmp_path / "a", "qwen", block_size=32).fingerprint != first
    assert load(tmp_path / "a", "qwen", content_format="openai").fingerprint != first
    (tmp_path / "a" / "qwen" / "chat_template.jinja").write_text("other")
    spec = ModelSpec(name="qwen")
    source = tmp_path / "a" / "qwen"
    assert load_model(spec, source=source, wanted="tokenizers", store=None).fingerprint != first


def test_a_tiktoken_file_becomes_a_tokenizer_with_its_template(tmp_path: Path) -> None:
    model = load(tmp_path, "tiktoken")
    prompt = chat(model)
    assert model.backend.encoder.encode(text_of(model)).tolist() == prompt.ids.tolist()
    assert len(prompt.ids) < prompt.text_bytes


def test_the_pattern_of_a_tiktoken_file_can_be_configured(tmp_path: Path) -> None:
    (usual,), (single,) = (
        prompts(load(tmp_path, "tiktoken", tiktoken_pattern=pattern), COMPLETIONS, prompt="1234567")
        for pattern in ("", r"\p{N}")
    )
    assert len(single.ids) == 7
    assert len(usual.ids) < 7


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ reasoning_effort }} {{ enable_thinking }}", "none False"),
        ("{% if reasoning_effort == 'none' %}{{ raise_exception('no') }}{% endif %}{{ reasoning_effort }}", "low"),
    ],
)
def test_thinking_that_cannot_be_stopped_is_kept_low(template: str, text: str, tmp_path: Path) -> None:
    spec = make_spec(tmp_path, "qwen")
    (tmp_path / "qwen" / "chat_template.jinja").write_text(template)
    shelved = Reading(spec).shelf.find("qwen")
    assert shelved is not None
    assert shelved.model is not None
    fields = {"model": "qwen", "messages": [{"role": "user", "content": "hi"}], "thinking": {"type": "disabled"}}
    prompt = parse("/v1/messages", **fields).prompt_input()
    assert isinstance(prompt, ChatInput)
    assert shelved.model.render(prompt)[0] == text
