"""What the files beside a tokenizer do to it, against the `transformers` library.

Every case takes a model that is known to load and changes its files; texts, chats and the special tokens that a
template gets must then be those of the library's ``AutoTokenizer``. Where the library makes up a tokenizer from files
that contradict each other, ours refuses them.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from tokenizers import Tokenizer

from extproc.config.models import ModelSpec
from extproc.errors import ModelUnusable
from extproc.models.model import Model, load_model
from extproc.tokens.tokenizer_file import _KEEP_THE_FILE
from tests.support.models import added_tokens, make_model, random_texts
from tests.support.readers import Reading

os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it would advise to install PyTorch
from transformers import AutoTokenizer
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

TEXTS = 25
NEW = "<|new|>"
FLAGS: Mapping[str, bool] = MappingProxyType(
    {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
)
NAMES = "{{ bos_token }}|{{ eos_token }}|{{ unk_token }}|{{ pad_token }}|{{ cls_token }}|{{ image_token }}"
TEMPLATE = f"{NAMES}{{% for message in messages %}}<|im_start|>{{{{ message.content }}}}<|im_end|>{{% endfor %}}"

Json = dict[str, Any]
Change = Callable[["Files"], None]


class Files:
    """The files of a model, to be changed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __getitem__(self, name: str) -> Json:
        content: Json = json.loads((self.directory / name).read_text())
        return content

    def __setitem__(self, name: str, content: Json) -> None:
        (self.directory / name).write_text(json.dumps(content))

    @property
    def config(self) -> Json:
        return self["tokenizer_config.json"]

    def configure(self, **values: Any) -> None:  # noqa: ANN401
        """Set values of the configuration; those that are ``...`` are taken out."""
        config = {**self.config, **values}
        self["tokenizer_config.json"] = {name: value for name, value in config.items() if value is not ...}

    def declare(self, content: str, **flags: bool) -> None:
        """Declare an added token in the configuration; one that is not there yet gets the next id."""
        decoder = self.config["added_tokens_decoder"]
        ids = {token["content"]: number for number, token in decoder.items()}
        number = ids.get(content, str(max(self.next_id(), *(int(number) + 1 for number in decoder))))
        known = decoder.get(number, {**FLAGS, "content": content})
        self.configure(added_tokens_decoder={**decoder, number: {**known, **flags}})

    def next_id(self) -> int:
        path = self.directory / "tokenizer.json"
        return int(Tokenizer.from_file(str(path)).get_vocab_size()) if path.exists() else 0


def configured(**values: Any) -> Change:  # noqa: ANN401
    return lambda files: files.configure(**values)


def declared(content: str, **flags: bool) -> Change:
    return lambda files: files.declare(content, **flags)


def mapped(*, decoder: bool, **values: Any) -> Change:  # noqa: ANN401
    """Write ``special_tokens_map.json`` beside a configuration with or without ``added_tokens_decoder``."""

    def change(files: Files) -> None:
        files["special_tokens_map.json"] = values
        if not decoder:
            files.configure(added_tokens_decoder=...)

    return change


def listed(*contents: str, decoder: bool, **values: Any) -> Change:  # noqa: ANN401
    """Write ``added_tokens.json`` with new tokens."""

    def change(files: Files) -> None:
        first = files.next_id()
        files["added_tokens.json"] = {content: first + place for place, content in enumerate(contents)}
        files.configure(**values)
        if not decoder:
            files.configure(added_tokens_decoder=...)

    return change


def in_file(**values: Any) -> Change:  # noqa: ANN401
    """Change ``tokenizer.json`` itself."""

    def change(files: Files) -> None:
        files["tokenizer.json"] = {**files["tokenizer.json"], **values}

    return change


def of_model(**values: Any) -> Change:  # noqa: ANN401
    """Write the model's ``config.json``."""

    def change(files: Files) -> None:
        files["config.json"] = values

    return change


def llama(*, model_type: str = "", name: str = "LlamaTokenizer", **values: Any) -> Change:  # noqa: ANN401
    """The class that builds parts of the tokenizer itself."""

    def change(files: Files) -> None:
        files.configure(tokenizer_class=name, **values)
        if model_type:
            files["config.json"] = {"model_type": model_type}

    return change


PADDING = {
    "strategy": {"Fixed": 64},
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "<|endoftext|>",
}
TRUNCATION = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
ADDED_TYPE = {"__type": "AddedToken", "content": "<|im_end|>", **FLAGS}

LLAMAS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "legacy": {"legacy": True},
        "not legacy": {"legacy": False},
        "no word of legacy": {"legacy": ...},
        "legacy null": {"legacy": None},
        "no prefix space": {"legacy": False, "add_prefix_space": False},
        "no prefix space, legacy": {"legacy": True, "add_prefix_space": False},
        "a prefix space": {"legacy": False, "add_prefix_space": True},
        "a prefix space null": {"add_prefix_space": None},
        "a mistral": {"model_type": "mistral"},
        "a mixtral": {"model_type": "mixtral"},
        "a llama": {"model_type": "llama"},
        "its fast name": {"name": "LlamaTokenizerFast", "legacy": ...},
        "a mistral of today": {"model_type": "mistral3"},
        "a granite": {"model_type": "granite"},
        "a qwen3": {"model_type": "qwen3"},
    }
)

CASES: Mapping[str, tuple[str, tuple[Change, ...]]] = MappingProxyType(
    {
        "a new token": ("qwen", (declared(NEW),)),
        "a new token that is not special": ("qwen", (declared(NEW, special=False),)),
        "a new token that takes blanks before it": ("qwen", (declared(NEW, lstrip=True),)),
        "a new token that takes blanks after it": ("qwen", (declared(NEW, rstrip=True),)),
        "a new token between words": ("qwen", (declared(NEW, single_word=True),)),
        "a new normalized token": ("normalized_special", (declared("<|NEW|>", normalized=True),)),
        "two new tokens": ("qwen", (declared(NEW), declared("<|newer|>", special=False))),
        "a new token in a sentence": ("mistral_metaspace", (declared(NEW),)),
        "a new token in a wordpiece file": ("wordpiece", (declared(NEW),)),
        "a known token takes blanks before it": ("qwen", (declared("<|im_end|>", lstrip=True),)),
        "a known token takes blanks after it": ("qwen", (declared("<|im_start|>", rstrip=True),)),
        "a known token is between words": ("qwen", (declared("<tool_call>", single_word=True),)),
        "a known token is special": ("qwen", (declared("<tool_call>", special=True),)),
        "a known token is not special": ("qwen", (declared("<|im_end|>", special=False),)),
        "a known token is normalized": ("qwen", (declared("<|im_end|>", normalized=True),)),
        "a known token of a sentence is normalized": ("llama2_legacy", (declared("</s>", normalized=True),)),
        "no added tokens in the configuration": ("qwen", (configured(added_tokens_decoder=...),)),
        "an empty list of added tokens": ("qwen", (configured(added_tokens_decoder={}),)),
        "a map without added tokens": ("qwen", (mapped(decoder=False, bos_token="<|im_start|>", pad_token="<think>"),)),
        "a map beside added tokens": ("qwen", (mapped(decoder=True, bos_token="<|im_start|>", pad_token="<think>"),)),
        "a map of objects": (
            "qwen",
            (mapped(decoder=False, eos_token={**FLAGS, "content": "<think>", "rstrip": True}),),
        ),
        "a map with known additional tokens": (
            "qwen",
            (mapped(decoder=False, additional_special_tokens=["<think>", "</think>"]),),
        ),
        "a list of added tokens": ("qwen", (listed(NEW, "<|newer|>", decoder=False),)),
        "a list of added tokens that are named": ("qwen", (listed(NEW, decoder=False, bos_token=NEW),)),
        "a list of added tokens beside others": ("qwen", (listed(NEW, decoder=True),)),
        "a list of added tokens under a normalizer": (
            "normalized_special",
            (listed("<|NEW|>", decoder=False),),
        ),
        "a list of added tokens of which one is additional": (
            "normalized_special",
            (listed("<|NEW|>", decoder=False, extra_special_tokens=["<|NEW|>"]),),
        ),
        "a list of added tokens of which one is named in the map": (
            "normalized_special",
            (listed("<|NEW|>", decoder=False), mapped(decoder=False, sep_token="<|NEW|>")),
        ),
        "a BOS is asked for and the file has none": (
            "qwen",
            (configured(add_bos_token=True, bos_token="<|im_start|>"),),
        ),
        "an EOS is asked for and the file has none": ("llama3", (configured(add_eos_token=True),)),
        "no BOS is asked for and the file has one": ("llama3", (configured(add_bos_token=False),)),
        "the usual names": (
            "wordpiece",
            (configured(bos_token="[CLS]", eos_token="[SEP]"),),
        ),
        "a name of the model's own": ("qwen", (configured(image_token="<|im_start|>"),)),
        "a name of the model's own for a token that is not added": ("qwen", (configured(image_token="the"),)),
        "a name without a token": ("qwen", (configured(image_token=None, eos_token=None),)),
        "a name as an object": ("qwen", (configured(eos_token={**ADDED_TYPE, "lstrip": True}),)),
        "a name as an object without added tokens": (
            "qwen",
            (configured(added_tokens_decoder=..., eos_token={**ADDED_TYPE, "content": "the", "lstrip": True}),),
        ),
        "named extra tokens": ("qwen", (configured(extra_special_tokens={"image_token": "<|im_start|>"}),)),
        "extra tokens with names of other forms": ("qwen", (configured(extra_special_tokens={"picture": "<think>"}),)),
        "a list of extra tokens": ("qwen", (configured(extra_special_tokens=["<think>", "the"]),)),
        "extra tokens that the vocabulary lacks": ("qwen", (configured(extra_special_tokens=[NEW]),)),
        "additional tokens that the vocabulary lacks": ("qwen", (configured(additional_special_tokens=[NEW]),)),
        "extra tokens and additional ones": (
            "qwen",
            (configured(extra_special_tokens=["<think>", "the"], additional_special_tokens=["Hello", NEW]),),
        ),
        "extra tokens in the map": ("qwen", (mapped(decoder=False, extra_special_tokens=["the", NEW]),)),
        "additional tokens in the map": ("qwen", (mapped(decoder=False, additional_special_tokens=["the", NEW]),)),
        "named extra tokens in the map": (
            "qwen",
            (
                configured(extra_special_tokens={"image_token": "<think>", "other_token": "<|im_end|>"}),
                mapped(decoder=False, extra_special_tokens={"image_token": "<|im_start|>"}),
            ),
        ),
        "a named token that is declared as not special, and special tokens are split": (
            "qwen",
            (declared(NEW, special=False), configured(sep_token=NEW, split_special_tokens=True)),
        ),
        "special tokens are split": ("qwen", (configured(split_special_tokens=True),)),
        "special tokens of a sentence are split": ("metaspace_always", (configured(split_special_tokens=True),)),
        "padding in the file": ("qwen", (in_file(padding=PADDING),)),
        "padding in the file and no other name": ("qwen", (in_file(padding=PADDING), configured(pad_token=...))),
        "padding in the file and no pad token": ("qwen", (in_file(padding=PADDING), configured(pad_token=None))),
        "truncation in the file": ("qwen", (in_file(truncation=TRUNCATION),)),
        "the class of the model": ("qwen", (configured(tokenizer_class="Qwen2Tokenizer"),)),
        "the class of the model with its type": (
            "qwen",
            (configured(tokenizer_class="Qwen2Tokenizer"), of_model(model_type="qwen2")),
        ),
        "the class of a gemma": ("gemma", (configured(tokenizer_class="GemmaTokenizer"),)),
        "an unknown class": ("qwen", (configured(tokenizer_class="NoSuchTokenizer"),)),
        "no class": ("qwen", (configured(tokenizer_class=...), of_model(model_type="qwen2"))),
        **{
            f"llama with {kind} and {label}": (kind, (llama(**values),))
            for kind in ("mistral_metaspace", "llama2_legacy")
            for label, values in LLAMAS.items()
        },
        "llama with a byte-level file": ("llama3", (llama(),)),
        "llama with a byte-level file and legacy": ("qwen", (llama(legacy=True),)),
        "llama with a byte-level file of a llama": ("llama3", (llama(model_type="llama"),)),
        "llama with a gemma": ("gemma", (llama(),)),
        "llama with a BOS asked for": ("mistral_metaspace", (llama(add_bos_token=False, add_eos_token=True),)),
        "llama with new tokens": ("mistral_metaspace", (declared(NEW), llama())),
        "llama with special tokens split": ("mistral_metaspace", (llama(split_special_tokens=True),)),
        "llama without names": (
            "mistral_metaspace",
            (llama(unk_token=..., bos_token=..., eos_token=..., pad_token=...),),
        ),
        "a tiktoken file": ("tiktoken", ()),
        "a tiktoken file with a BOS": ("tiktoken", (configured(add_bos_token=True, bos_token="<|endoftext|>"),)),
        "a tiktoken file with an EOS": ("tiktoken", (configured(add_eos_token=True),)),
        "a tiktoken file with both": (
            "tiktoken",
            (configured(add_bos_token=True, add_eos_token=True, bos_token="<|im_start|>"),),
        ),
        "a tiktoken file with a BOS that has no name": ("tiktoken", (configured(add_bos_token=True),)),
        "a tiktoken file with a token apart": ("tiktoken", (declared(NEW, rstrip=True),)),
    }
)


def make(directory: Path, kind: str, changes: tuple[Change, ...]) -> Path:
    if kind == "tiktoken":
        pytest.importorskip("tiktoken", reason="transformers reads tiktoken files with the tiktoken package")
    files = Files(make_model(directory, kind))
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    for change in changes:
        change(files)
    return directory


def load(directory: Path) -> Model:
    spec = ModelSpec(name="model", source=str(directory))
    return load_model(spec, source=directory, wanted="auto", store=None)


@pytest.mark.parametrize("name", CASES)
def test_texts_chats_and_names_are_the_librarys(name: str, tmp_path: Path) -> None:
    kind, changes = CASES[name]
    make(tmp_path, kind, changes)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    reading = Reading(ModelSpec(name="model", source=str(tmp_path)))
    shelved = reading.shelf.find("model")
    assert shelved is not None
    assert shelved.model is not None
    assert dict(shelved.model.templates._special_tokens) == theirs.special_tokens_map
    tokens = [NEW, "<|NEW|>", "<|newer|>", *added_tokens(tmp_path)]
    for text in ("", "a", " a", f"a {NEW} b{NEW}c", f"{NEW}", *random_texts(tokens, count=TEXTS)):
        for special in (True, False):
            (found,) = reading.read("model", "/v1/completions", prompt=text, add_special_tokens=special)
            assert found.ids.tolist() == theirs(text, add_special_tokens=special)["input_ids"], ascii(text)
        messages = [{"role": "user", "content": text}]
        expected = theirs.apply_chat_template(messages, return_dict=False, add_generation_prompt=True)
        assert reading.chat("model", messages).ids.tolist() == expected, ascii(text)


def test_the_librarys_classes_keep_the_file_for_the_same_types_of_models() -> None:
    general = {"TokenizersBackend", "PythonBackend", "PreTrainedTokenizer", "MistralCommonBackend"}
    classes = {kind: (name or "").removesuffix("Fast") for kind, name in TOKENIZER_MAPPING_NAMES.items()}
    assert {kind for kind, name in classes.items() if name in general} == _KEEP_THE_FILE


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("broken_ids", (), "gives '<|im_end|>' the id .*, the vocabulary"),
        ("broken_special", (), "`bos_token` is '<|nowhere|>', which is not in the vocabulary"),
        ("qwen", (configured(image_token=NEW),), f"`image_token` is '{NEW}', which is not in the vocabulary"),
        ("qwen", (configured(extra_special_tokens={"image_token": NEW}),), "`image_token` is "),
        ("qwen", (configured(added_tokens_decoder={"99999": {**FLAGS, "content": NEW}}),), "99999, which is not free"),
        ("qwen", (configured(added_tokens_decoder={"0": {**FLAGS, "content": NEW}}),), "the id 0, which is not free"),
        ("qwen", (configured(added_tokens_decoder={"4000": dict(FLAGS)}),), "without `content`"),
    ],
)  # fmt: skip
def test_files_that_contradict_each_other_are_refused(
    kind: str, changes: tuple[Change, ...], words: str, tmp_path: Path
) -> None:
    make(tmp_path, kind, changes)
    with pytest.raises(ModelUnusable, match=f"tokenizer_config.json: .*{words.replace('|', '.')}"):
        load(tmp_path)
