"""The two encoders: the same ids, and one kind of error."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from extproc.tokens.encoder import Encoder, FastEncoder, ReferenceEncoder
from tests.support import tokenizers_for_tests as trained
from tests.support.models import random_texts


def both(tokenizer: Tokenizer) -> tuple[Encoder, Encoder]:
    return FastEncoder(tokenizer.to_str()), ReferenceEncoder(tokenizer)


@pytest.mark.parametrize("which", [0, 1], ids=["fastokens", "tokenizers"])
def test_a_post_processors_tokens_are_left_out_and_added_tokens_are_found(which: int) -> None:
    tokenizer = trained.llama3()
    encoder = both(tokenizer)[which]
    end = tokenizer.token_to_id("<|eot_id|>")
    assert encoder.encode("<|eot_id|>").tolist() == [end]
    assert encoder.encode("").tolist() == []
    assert encoder.encode("a<|eot_id|>").tolist() == [tokenizer.token_to_id("a"), end]


@pytest.mark.parametrize("which", [0, 1], ids=["fastokens", "tokenizers"])
def test_ids_are_unsigned_words_of_32_bits(which: int) -> None:
    found = both(trained.qwen())[which].encode("some text")
    assert found.dtype == np.uint32
    assert found.ndim == 1


def test_the_encoders_have_the_names_of_their_libraries() -> None:
    assert [encoder.name for encoder in both(trained.qwen())] == ["fastokens", "tokenizers"]


def test_both_give_the_same_ids() -> None:
    fast, reference = both(trained.qwen())
    for text in random_texts(trained.QWEN_TOKENS, count=100):
        assert fast.encode(text).tolist() == reference.encode(text).tolist()


def test_a_tokenizer_that_fastokens_cannot_load_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="fastokens cannot load it"):
        FastEncoder(trained.wordpiece().to_str())


def test_a_document_that_is_no_tokenizer_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="fastokens cannot load it"):
        FastEncoder('{"model": 1}')


@pytest.mark.parametrize("which", [0, 1], ids=["fastokens", "tokenizers"])
def test_a_text_that_cannot_be_encoded_is_a_value_error_without_the_text(which: int) -> None:
    encoder = both(trained.qwen())[which]
    with pytest.raises(ValueError, match="cannot encode it") as raised:
        encoder.encode("secret \ud800")
    assert "secret" not in str(raised.value)


def test_a_model_without_a_token_for_the_unknown_is_a_value_error() -> None:
    encoder = ReferenceEncoder(Tokenizer(models.WordLevel({"a": 0}, unk_token="<unk>")))
    with pytest.raises(ValueError, match="tokenizers cannot encode it"):
        encoder.encode("b")


@pytest.mark.parametrize("which", [0, 1], ids=["fastokens", "tokenizers"])
def test_several_threads_may_use_one_encoder(which: int) -> None:
    encoder = both(trained.qwen())[which]
    texts = [text * 20 for text in random_texts(trained.QWEN_TOKENS, count=60)]
    expected = [encoder.encode(text).tolist() for text in texts]
    with ThreadPoolExecutor(4) as threads:
        assert [found.tolist() for found in threads.map(encoder.encode, texts)] == expected


@pytest.mark.parametrize("which", [0, 1], ids=["fastokens", "tokenizers"])
def test_earlier_ids_stay_as_they_are_when_more_is_encoded(which: int) -> None:
    encoder = both(trained.qwen())[which]
    first = encoder.encode("some text")
    copy = first.tolist()
    for text in random_texts(trained.QWEN_TOKENS, count=20):
        encoder.encode(text)
    assert first.tolist() == copy
