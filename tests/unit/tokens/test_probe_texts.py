"""The texts on which tokenizers are compared: always the same, many, and around every added token."""

from extproc.tokens.probe_texts import probe_texts

TOKENS = ["<|im_end|>", "</s>"]


def test_the_texts_are_the_same_every_time() -> None:
    assert list(probe_texts(TOKENS)) == list(probe_texts(TOKENS))


def test_another_seed_gives_other_mixtures() -> None:
    assert list(probe_texts(TOKENS)) != list(probe_texts(TOKENS, seed=8))


def test_the_count_is_that_of_the_mixtures() -> None:
    few, many = list(probe_texts(TOKENS, count=10)), list(probe_texts(TOKENS, count=30))
    assert len(many) == len(few) + 20
    assert many[: len(few)] == few


def test_there_are_texts_without_any_added_token() -> None:
    texts = list(probe_texts([]))
    assert len(texts) > 160
    assert texts[0] == ""
    assert all(isinstance(text, str) for text in texts)


def test_every_added_token_has_neighbours_and_is_cut() -> None:
    texts = set(probe_texts(TOKENS, count=0))
    for token in TOKENS:
        assert {token, f"a{token}b", f" {token} ", token * 2, token[:-1], token[1:]} <= texts


def test_mixtures_contain_added_tokens_many_times() -> None:
    mixtures = list(probe_texts(TOKENS, count=100))[-100:]
    for token in TOKENS:
        assert sum(token in text for text in mixtures) > 10


def test_texts_cover_blanks_digits_scripts_and_the_signs_of_tokenizers() -> None:
    whole = "".join(probe_texts([], count=0))
    assert all(
        piece in whole for piece in ("  ", "\n\n", "\t", "1234567890", "é", "Привет", "你好", "👍", "▁", "Ġ", "\x00")
    )


def test_every_text_is_unicode_that_can_be_encoded() -> None:
    for text in probe_texts(TOKENS):
        text.encode()
