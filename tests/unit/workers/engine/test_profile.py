from pathlib import Path

import pytest

from workers.engine.profile import ProfileError, load_profile, profile_names

GOOD = "step:\n  base_secs: 0.01\n  prefill_token_secs: 0.0001\n"


def test_the_profiles_of_the_package_can_be_loaded() -> None:
    assert profile_names() == ["h100-1b", "h100-8b"]
    for name in profile_names():
        assert load_profile(name).num_blocks > 10_000


def test_a_file_is_read_and_named_fields_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD + "block_size: 32\n")

    profile = load_profile(str(path), kv_cache_tokens=3200)

    assert (profile.block_size, profile.num_blocks, profile.max_num_batched_tokens) == (32, 100, 8192)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "a profile is a mapping"),
        ("step: [", "no YAML"),
        ("block_size: 16\n", "missing required field `step`"),
        ("step:\n  base_secs: 0.01\n", "prefill_token_secs"),
        ("step:\n  base_secs: fast\n  prefill_token_secs: 1\n", r"got `str` - at `\$.step.base_secs`"),
        ("step:\n  base_secs: 0\n  prefill_token_secs: 1\n", "must be above 0"),
        ("step:\n  base_secs: .nan\n  prefill_token_secs: 1\n", "base_secs must be a number from 0 on"),
        (GOOD + "  colour: red\n", "unknown field `colour`"),
        (GOOD + "block_size: 0\n", "block_size must be at least 1"),
        (GOOD + "kv_cache_tokens: 31\n", "kv_cache_tokens must be at least two blocks"),
        (GOOD + "frontend:\n  secs: -1\n", "secs must be a number from 0 on"),
        (GOOD + "#" * (1 << 16), "at most 65536 bytes"),
    ],
)
def test_a_fault_names_the_file_and_the_field(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)

    with pytest.raises(ProfileError, match=fault) as refusal:
        load_profile(str(path))

    assert str(refusal.value).startswith(str(path))


def test_a_profile_that_does_not_exist_is_named_with_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="h100-80b: no such profile; there are h100-1b, h100-8b"):
        load_profile("h100-80b")
    with pytest.raises(ProfileError, match="cannot be read"):
        load_profile(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize("name", profile_names())
def test_a_cached_prompt_is_cheap_but_not_free(name: str) -> None:
    profile = load_profile(name)
    cold, warm = profile.lone_ttft_secs(8192, 0), profile.lone_ttft_secs(8192, 8176)

    assert profile.frontend.secs < warm < cold
