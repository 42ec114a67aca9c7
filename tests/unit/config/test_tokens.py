import pytest

from extproc.config.catalogue import entries
from extproc.config.convert import from_file, from_text
from extproc.config.tokens import TokensSettings


def test_is_on_by_default_and_keeps_what_it_makes() -> None:
    assert TokensSettings() == TokensSettings(
        when="always",
        backend="auto",
        cache_bytes=256 << 20,
        min_prefix_bytes=1024,
        verify_share=0.001,
        inline_secs=0.002,
        encode_threads=2,
        max_pending_encodings=256,
        max_prompt_bytes=16 << 20,
        reload_interval_secs=2.0,
    )


@pytest.mark.parametrize(
    ("name", "lowest", "highest"),
    [
        ("cache_bytes", 0, 1 << 40),
        ("min_prefix_bytes", 0, 1 << 20),
        ("verify_share", 0, 1),
        ("inline_secs", 0, 1),
        ("encode_threads", 1, 64),
        ("max_pending_encodings", 1, 100_000),
        ("max_prompt_bytes", 1024, 1 << 30),
    ],
)
def test_bounds_are_taken_and_nothing_beyond(name: str, lowest: int, highest: int) -> None:
    entry = entries()[f"tokens.{name}"]
    assert [from_file(value, entry) for value in (lowest, highest)] == [lowest, highest]
    for value in (lowest - 1, highest + 1):
        with pytest.raises(ValueError, match="must be at"):
            from_file(value, entry)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("when", ("always", "needed"), "never"),
        ("backend", ("auto", "tokenizers"), "fastokens"),
        ("reload_interval_secs", (0.05, 86400.0), 0.049),
    ],
)
def test_choices_and_intervals(name: str, good: tuple[object, ...], bad: object) -> None:
    entry = entries()[f"tokens.{name}"]
    assert tuple(from_file(value, entry) for value in good) == good
    with pytest.raises(ValueError, match="must be"):
        from_file(bad, entry)


def test_can_be_set_in_the_environment_and_as_a_flag() -> None:
    entry = entries()["tokens.cache_bytes"]
    assert (entry.environment_name, entry.flag) == ("EXTPROC_TOKENS_CACHE_BYTES", "--tokens.cache-bytes")
    assert from_text("1_073_741_824", entry) == 1 << 30
