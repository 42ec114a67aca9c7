import pytest

from extproc.config.catalogue import entries
from extproc.config.convert import from_file, from_text
from extproc.config.discovery import DiscoverySettings


def test_nothing_is_looked_for_unless_asked() -> None:
    settings = DiscoverySettings()
    assert (settings.file, settings.dns_names, settings.plugins) == ("", (), ())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dns_min_ttl_secs", 0),
        ("dns_timeout_secs", 0),
        ("dns_timeout_secs", 61),
        ("retry_secs", 0),
        ("first_report_timeout_secs", -1),
    ],
)
def test_times_have_bounds(name: str, value: float) -> None:
    with pytest.raises(ValueError, match="must be at"):
        from_file(value, entries()[f"discovery.{name}"])


def test_names_can_be_given_as_a_flag() -> None:
    assert from_text("a:80, srv:b", entries()["discovery.dns_names"]) == ("a:80", "srv:b")
