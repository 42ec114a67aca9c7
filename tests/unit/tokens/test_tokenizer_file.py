"""What a tokenizer is built to from its files: its added tokens, its names, and what goes around a prompt."""

from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers

from extproc.tokens.tokenizer_file import TokenizerFile, build
from tests.support import tokenizers_for_tests as trained

FLAGS = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}


def built(tokenizer: Tokenizer, config: dict[str, Any] | None = None, **others: Any) -> TokenizerFile:  # noqa: ANN401
    return build(tokenizer, **{"config": config or {}, "special_tokens": {}, "added_tokens": {}, **others})


def test_added_tokens_are_listed_as_they_are_declared() -> None:
    found = {token.content: token for token in built(trained.qwen(lstrip=("<|im_end|>",))).added}
    assert list(found) == [*trained.QWEN_TOKENS, *trained.QWEN_WORDS]
    assert found["<|im_end|>"].lstrip
    assert not found["<|im_start|>"].lstrip
    assert found["<|im_end|>"].special
    assert not found["<think>"].special


def test_declared_properties_replace_those_of_the_file() -> None:
    number = trained.qwen().token_to_id("<think>")
    declared = {str(number): {**FLAGS, "content": "<think>", "rstrip": True}}
    (found,) = (one for one in built(trained.qwen(), {"added_tokens_decoder": declared}).added if one.id == number)
    assert (found.content, found.rstrip, found.special) == ("<think>", True, True)


def test_new_tokens_get_the_ids_that_they_are_declared_with_in_any_order() -> None:
    size = trained.qwen().get_vocab_size()
    declared = {str(size + place): {**FLAGS, "content": f"<{place}>"} for place in (1, 0, 2)}
    file = built(trained.qwen(), {"added_tokens_decoder": declared})
    assert file.reference.encode("<0><2><1>").ids == [size, size + 2, size + 1]


@pytest.mark.parametrize(
    ("tokenizer", "before", "after"),
    [
        (trained.llama3, ["<|begin_of_text|>"], []),
        (trained.qwen, [], []),
        (trained.wordpiece, ["[CLS]"], ["[SEP]"]),
        (trained.unigram, ["<s>"], ["</s>"]),
    ],
)
def test_what_goes_around_a_prompt_is_that_of_the_post_processor(
    tokenizer: Callable[[], Tokenizer], before: list[str], after: list[str]
) -> None:
    file = built(tokenizer())
    ids = file.reference.token_to_id
    assert file.before.tolist() == list(map(ids, before))
    assert file.after.tolist() == list(map(ids, after))


def test_a_tokenizer_that_makes_nothing_of_letters_is_refused() -> None:
    with pytest.raises(ValueError, match="changes the ids of the text"):
        built(Tokenizer(models.BPE()))


def test_bos_and_eos_are_added_to_a_tiktoken_file_alone() -> None:
    config = {"add_bos_token": True, "add_eos_token": True, "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    plain, tiktoken = built(trained.qwen(), config), built(trained.qwen(), config, is_tiktoken=True)
    ids = plain.reference.token_to_id
    assert (plain.before.tolist(), plain.after.tolist()) == ([], [])
    assert (tiktoken.before.tolist(), tiktoken.after.tolist()) == ([ids("<|im_start|>")], [ids("<|im_end|>")])


@pytest.mark.parametrize(
    ("normalizer", "expected"),
    [
        (None, False),
        (normalizers.Sequence([]), False),
        (normalizers.Sequence([normalizers.Sequence([])]), False),
        (normalizers.NFC(), True),
        (normalizers.Sequence([normalizers.Lowercase()]), True),
    ],
)
def test_a_normalizer_that_may_change_a_text_is_noticed(normalizer: Any, expected: bool) -> None:  # noqa: ANN401
    tokenizer = trained.llama3()
    tokenizer.normalizer = normalizer
    assert built(tokenizer).normalizes == expected


def test_the_map_of_special_tokens_counts_only_without_declared_tokens() -> None:
    named = {"eos_token": "<think>"}
    config = {"eos_token": "<|im_end|>", "image_token": "<|im_start|>"}
    without = built(trained.qwen(), config, special_tokens=named)
    beside = built(trained.qwen(), {**config, "added_tokens_decoder": {}}, special_tokens=named)
    assert without.special_tokens == {"eos_token": "<think>", "image_token": "<|im_start|>"}
    assert beside.special_tokens == config


def test_names_without_a_token_are_left_out() -> None:
    config = {"bos_token": None, "eos_token": "<|im_end|>", "unk_token": "", "add_bos_token": True, "x_token": 7}
    assert built(trained.qwen(), config).special_tokens == {"eos_token": "<|im_end|>"}


def test_padding_and_truncation_of_the_file_are_left_to_the_caller() -> None:
    tokenizer = trained.qwen()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9, pad_token="<|endoftext|>", pad_id=tokenizer.token_to_id("<|endoftext|>"))
    file = built(tokenizer)
    assert file.reference.encode("a b c d").ids == trained.qwen().encode("a b c d").ids
    assert file.special_tokens == {"pad_token": "<|endoftext|>"}


def test_the_document_is_the_amended_tokenizer() -> None:
    size = trained.qwen().get_vocab_size()
    file = built(trained.qwen(), {"added_tokens_decoder": {str(size): {**FLAGS, "content": "<new>"}}})
    read = Tokenizer.from_str(file.reference.to_str())
    assert read.encode("a<new>b").ids == file.reference.encode("a<new>b").ids
    assert size in read.encode("a<new>b").ids


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"added_tokens_decoder": {"99999": {**FLAGS, "content": "<new>"}}}, "id 99999, which is not free"),
        ({"added_tokens_decoder": {"0": {**FLAGS, "content": "<think>"}}}, "the id 0, the vocabulary 4"),
        ({"added_tokens_decoder": {"5000": {"special": True}}}, "an entry without `content`"),
        ({"added_tokens_decoder": {"x": {**FLAGS, "content": "<new>"}}}, "invalid literal"),
        ({"pad_token": "<none>"}, "`pad_token` is '<none>', which is not in the vocabulary"),
    ],
)
def test_a_configuration_that_contradicts_the_file_is_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        built(trained.qwen(), config)


@pytest.mark.parametrize("added", [{"<new>": 99_999}, {"<think>": 0}])
def test_added_tokens_that_contradict_the_file_are_refused(added: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="`added_tokens_decoder` gives"):
        built(trained.qwen(), added_tokens=added)
