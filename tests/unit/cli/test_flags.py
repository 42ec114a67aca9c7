from argparse import ArgumentParser
from pathlib import Path

import pytest

from extproc.cli.flags import add_configuration_flags, settings_from
from extproc.config.catalogue import entries, groups
from extproc.config.settings import Settings
from extproc.errors import ConfigurationError
from extproc.policies.registry import POLICIES


@pytest.fixture
def parser() -> ArgumentParser:
    made = ArgumentParser(prog="extproc serve", allow_abbrev=False)
    add_configuration_flags(made)
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "extproc.yaml"
    path.write_text("server: {max_streams: 1}\n")
    return path


def test_help_shows_every_setting_in_a_section_of_its_group(parser: ArgumentParser) -> None:
    page = parser.format_help()
    assert [path for path, entry in entries().items() if f"  {entry.flag} VALUE" not in page] == []
    assert [name for name in groups() if f"settings of `{name}`:" not in page] == []
    assert page.startswith("usage: extproc serve -c FILE [--GROUP.SETTING VALUE ...]\n")


def test_flags_that_are_not_given_change_nothing(parser: ArgumentParser, file: Path) -> None:
    settings = settings_from(parser.parse_args(["-c", str(file)]))
    assert settings.server.max_streams == 1
    assert settings.admin == Settings().admin


def test_flags_override_the_environment_and_the_file(
    parser: ArgumentParser, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXTPROC_SERVER_MAX_STREAMS", "2")
    monkeypatch.setenv("EXTPROC_SERVER_MAX_PINGS", "7")
    arguments = parser.parse_args(["-c", str(file), "--server.max-streams", "3", "--routing.decision-header=true"])
    settings = settings_from(arguments)
    assert (settings.server.max_streams, settings.server.max_pings) == (3, 7)
    assert settings.routing.decision_header is True


def test_reading_again_sees_the_file_as_it_is_then(parser: ArgumentParser, file: Path) -> None:
    arguments = parser.parse_args(["-c", str(file), "--server.max-pings", "5"])
    assert settings_from(arguments).server.max_streams == 1
    file.write_text("server: {max_streams: 9}\n")
    settings = settings_from(arguments)
    assert (settings.server.max_streams, settings.server.max_pings) == (9, 5)


def test_a_negative_number_is_a_value_not_a_flag(parser: ArgumentParser, file: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^--server.max-pings: must be at least 1 pings, not -1$"):
        settings_from(parser.parse_args(["-c", str(file), "--server.max-pings", "-1"]))


@pytest.mark.parametrize("policy", POLICIES)
def test_every_registered_policy_can_be_chosen(policy: str, parser: ArgumentParser, file: Path) -> None:
    assert settings_from(parser.parse_args(["-c", str(file), "--routing.policy", policy])).routing.policy == policy
