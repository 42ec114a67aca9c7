"""After which tokens a text may be cut, and that cutting there changes no id."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from tokenizers import Tokenizer

from extproc.config.models import ModelSpec
from extproc.index.block_hash import Ids
from extproc.models.model import Model, load_model
from extproc.tokens.boundaries import (
    AddedToken,
    Boundaries,
    _is_additive,
    overlap,
    overlaps_itself,
    safe_tokens,
)
from extproc.tokens.encoder import ReferenceEncoder
from extproc.tokens.probe_texts import probe_texts
from tests.support import tokenizers_for_tests as trained
from tests.support.models import GOOD_KINDS, added_tokens, make_model, texts
from tests.support.stores import make_segment, open_store

CHATML = ("<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>")
SAFE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "llama3": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "qwen": CHATML,
        "qwen3": CHATML,
        "mistral_metaspace": (),  # a blank is put before the start of a text, not of a piece
        "metaspace_always": (
            "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
            "[/TOOL_RESULTS]", "[TOOL_CALLS]",
        ),
        "llama2_legacy": ("<s>", "</s>"),
        "gemma": ("<bos>", "<start_of_turn>", "<end_of_turn>"),  # not "\n": it begins "\n\n", a token too
        "wordpiece": ("<|turn|>",),
        "unigram": ("<|turn|>",),
        "added_lstrip": ("<tool_call>", "</tool_call>"),
        "added_rstrip": ("<tool_call>", "</tool_call>"),
        "overlapping": ("<tool_call>", "</tool_call>"),  # "|><|" can begin in the others
        "prefix_space": CHATML,
        "normalized_special": (),
        "tiktoken": CHATML,
    }
)  # fmt: skip
DEEPSEEK_TURNS = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>")

unhurried = settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    root = tmp_path_factory.mktemp("models")
    store = open_store(make_segment())
    known: dict[str, Model] = {}

    def model(kind: str) -> Model:
        if kind not in known:
            directory = make_model(root / kind, kind)
            spec = ModelSpec(name=kind, source=str(directory))
            known[kind] = load_model(spec, source=directory, wanted="auto", store=store)
        return known[kind]

    return model


def token(content: str, number: int = 0, **flags: bool) -> AddedToken:
    return AddedToken(id=number, content=content, **flags)


class LetterEncoder:
    """Gives every character its code point, so that any text may be cut anywhere."""

    name = "letters"

    def encode(self, text: str) -> Ids:
        return np.array([ord(letter) for letter in text], dtype=np.uint32)


def safe(*candidates: AddedToken, among: tuple[AddedToken, ...] = (), normalizes: bool = False) -> list[str]:
    added = (*candidates, *among)
    found = safe_tokens(candidates, added=added, normalizes=normalizes, encoder=LetterEncoder())
    return [one.content for one in found]


@pytest.mark.parametrize("kind", SAFE)
def test_the_safe_tokens_of_a_kind(kind: str, model_of: Callable[[str], Model]) -> None:
    assert tuple(one.content for one in model_of(kind).cache.boundaries.tokens) == SAFE[kind]


def test_a_model_with_many_turn_tokens_uses_those_of_its_template(model_of: Callable[[str], Model]) -> None:
    found = {one.content for one in model_of("deepseek").cache.boundaries.tokens}
    assert found >= set(DEEPSEEK_TURNS)
    assert not found & {"<｜fim▁hole｜>", "<|EOT|>"}


def test_every_kind_has_its_safe_tokens_written_down() -> None:
    assert {*SAFE, "deepseek"} == set(GOOD_KINDS)


@pytest.mark.parametrize("kind", GOOD_KINDS)
def test_a_text_cut_at_its_boundaries_has_the_ids_of_the_whole(kind: str, model_of: Callable[[str], Model]) -> None:
    model = model_of(kind)
    boundaries, encoder = model.cache.boundaries, model.backend.encoder
    tokens = added_tokens(Path(model.spec.source))

    @unhurried
    @given(texts(tokens, pieces=20))
    def check(text: str) -> None:
        data = text.encode()
        offsets = boundaries.in_text(data)
        assert offsets == sorted(set(offsets))
        ids = encoder.encode(text)
        pieces = [data[start:end].decode() for start, end in zip([0, *offsets], [*offsets, len(data)], strict=True)]
        parts = [encoder.encode(piece) for piece in pieces]
        assert np.concatenate(parts).tolist() == ids.tolist()
        positions = np.cumsum([len(part) for part in parts])[:-1].tolist()
        assert boundaries.in_ids(ids).tolist() == positions

    check()


def test_a_token_whose_neighbours_share_nothing_with_it_is_safe() -> None:
    assert safe(token("<a>"), token("<b>"), among=(token("[c]"),)) == ["<a>", "<b>"]


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_a_token_that_heeds_what_is_around_it_is_not_safe(flag: str) -> None:
    assert safe(token("<a>", **{flag: True}), token("<b>")) == ["<b>"]


def test_a_normalized_token_is_safe_only_where_nothing_is_normalized() -> None:
    tokens = (token("<a>", normalized=True), token("<b>"))
    assert safe(*tokens, normalizes=False) == ["<a>", "<b>"]
    assert safe(*tokens, normalizes=True) == ["<b>"]


@pytest.mark.parametrize(
    ("content", "other"),
    [
        ("<a>", "<a><b>"),  # begins a longer one
        ("<b>", "<a><b>"),  # ends it
        ("<b>", "<a><b><c>"),  # is inside it
        ("<a><", "><b>"),
        ("<a>", "><"),  # the other begins in it
        ("<a>", "x<"),  # the other ends in it
    ],
)
def test_a_token_that_another_may_swallow_is_not_safe(content: str, other: str) -> None:
    assert safe(token(content), among=(token(other),)) == []
    assert overlap(content, other)
    assert overlap(other, content)


@pytest.mark.parametrize(
    ("one", "other"), [("<a>", "<b>"), ("ab", "cd"), ("<|x|>", "<|xy|>"), ("a", "b"), ("abc", "bd")]
)
def test_tokens_that_share_no_end_do_not_overlap(one: str, other: str) -> None:
    assert not overlap(one, other)
    assert not overlap(other, one)


@pytest.mark.parametrize(
    ("content", "expected"), [("aa", True), ("aba", True), ("|x|", True), ("<a>", False), ("a", False)]
)
def test_a_token_that_overlaps_itself_is_not_safe(content: str, expected: bool) -> None:
    assert overlaps_itself(content) == expected
    assert safe(token(content)) == ([] if expected else [content])


def test_a_candidate_does_not_count_as_its_own_neighbour() -> None:
    one = token("<a>")
    assert safe_tokens([one], added=[one], normalizes=False, encoder=LetterEncoder()) == [one]


@pytest.mark.parametrize(
    ("scheme", "content", "expected"),
    [("first", "[INST]", False), ("first", "</s>", False), ("always", "[INST]", True), ("never", "</s>", True)],
)
def test_trials_alone_find_a_tokenizer_that_treats_the_start_of_a_text_in_its_own_way(
    scheme: str, content: str, expected: bool
) -> None:
    encoder = ReferenceEncoder(trained.metaspace(scheme))
    assert _is_additive(content, list(probe_texts(trained.MISTRAL_TOKENS, count=40)), encoder) == expected


@pytest.mark.parametrize(
    ("made", "content"),
    [
        (trained.qwen(rstrip=("<|im_end|>",)), "<|im_end|>"),
        (trained.qwen(more=trained.OVERLAPPING_TOKENS), "<|im_end|>"),
        (trained.gemma(), "\n"),
        (trained.qwen(), "the"),
    ],
    ids=["takes blanks after it", "overlaps", "begins another", "is no token"],
)
def test_trials_alone_find_other_tokens_that_are_not_safe(made: Tokenizer, content: str) -> None:
    contents = [one.content for one in made.get_added_tokens_decoder().values()]
    assert not _is_additive(content, list(probe_texts(contents, count=40)), ReferenceEncoder(made))


def test_a_token_that_fails_its_trial_is_not_safe_whatever_it_declares() -> None:
    encoder = ReferenceEncoder(trained.metaspace("first"))
    tokens = [token(content) for content in trained.MISTRAL_TOKENS]
    assert safe_tokens(tokens, added=tokens, normalizes=False, encoder=encoder) == []


def test_boundaries_are_found_behind_every_token_in_order() -> None:
    boundaries = Boundaries([token("<b>", 7), token("[a]", 3), token("<bb>", 5)])
    assert boundaries.in_text("é[a]<b>x<bb>[a]".encode()) == [5, 8, 13, 16]
    assert boundaries.in_ids(np.array([9, 3, 7, 1, 5, 3, 4_000_000_000], dtype=np.uint32)).tolist() == [2, 3, 5, 6]


def test_without_tokens_there_are_no_boundaries() -> None:
    boundaries = Boundaries([])
    assert boundaries.in_text(b"<b>") == []
    assert boundaries.in_ids(np.array([0, 1, 2], dtype=np.uint32)).tolist() == []


def test_the_longest_of_tokens_with_a_common_start_is_found() -> None:
    assert Boundaries([token("<a", 1), token("<ab", 2)]).in_text(b"<ab<a") == [3, 5]


def test_special_characters_of_tokens_are_taken_literally() -> None:
    boundaries = Boundaries([token("<|.*|>", 1), token("<|x|>", 2)])
    assert boundaries.in_text(b"<|x|><||><|.*|>") == [5, 15]
