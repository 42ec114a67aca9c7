import dataclasses
from pathlib import Path

import pytest

import workers
from workers.simulated.faults import Behaviour
from workers.simulated.flags import flag_table, parse_flags
from workers.simulated.settings import Settings


def test_no_flags_give_the_declared_defaults() -> None:
    assert parse_flags([]) == Settings()


def test_flags_are_read_by_their_type() -> None:
    settings = parse_flags(
        ["--port", "8001", "--model", "a", "--model", "b", "--ttft-secs", "0.5", "--unhealthy", "--mode", "hang"]
    )

    assert (settings.port, settings.models, settings.ttft_secs) == (8001, ("a", "b"), 0.5)
    assert settings.behaviour == Behaviour(mode="hang", unhealthy=True)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--port", "65536"], "above 65535"),
        (["--port", "x"], "not a number"),
        (["--ttft-secs", "-1"], "below 0"),
        (["--ttft-secs", "nan"], "below 0"),
        (["--max-tokens", "0"], "below 1"),
        (["--mode", "sulk"], "invalid choice"),
        (["--profile", "h100-8b", "--ttft-secs", "1"], "--ttft-secs means nothing with --profile"),
        (["--device-share"], "--device-share means nothing without --profile"),
        (["--profile", "h100"], "--profile h100: no such profile"),
        (["--profile", "h100-8b", "--kv-cache-tokens", "31"], "h100-8b: kv_cache_tokens must be at least two blocks"),
        (["--kv-cache-tokens", "15"], "--kv-cache-tokens must be at least --block-size"),
        (["--port", "65535", "--workers", "2"], "there is no port 65536"),
        (["--lora", "tiny"], "must differ"),
        (["--profile", "h100-8b", "--kv-events-replay-endpoint", "ipc:///r"], "needs --kv-events-endpoint"),
        (["--profile", "h100-8b", "--workers", "2", "--kv-events-endpoint", "ipc:///e"], "needs {n}"),
        (["--colour", "red"], "unrecognized arguments"),
    ],
)
def test_unusable_flags_exit_with_status_2_and_name_the_fault(
    arguments: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_flags(arguments)

    assert stop.value.code == 2
    assert fault in capsys.readouterr().err


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_flags(["--help"])

    shown = capsys.readouterr().out
    for field in dataclasses.fields(Settings):
        assert f"--{field.metadata['setting'].flag or field.name.replace('_', '-')}" in shown


def test_readme_shows_the_flags_as_they_are() -> None:
    readme = (Path(workers.__file__).parent / "README.md").read_text(encoding="utf-8")

    assert flag_table() in readme
