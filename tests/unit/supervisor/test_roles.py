from pathlib import Path

import pytest

from extproc.supervisor.roles import ENTRIES, load
from tests.support.roles_for_tests import serve


def test_an_entry_is_loaded_by_its_name() -> None:
    assert load("tests.support.roles_for_tests:serve") is serve


@pytest.mark.parametrize("entry", ["extproc.nowhere:run", "extproc.errors:run", "extproc.errors:", ""])
def test_an_entry_that_does_not_exist_is_an_error(entry: str) -> None:
    with pytest.raises((ImportError, AttributeError, ValueError)):
        load(entry)


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=[role.name for role in ENTRIES])
def test_every_role_of_the_table_has_its_code(entry: str) -> None:
    module, _, function = entry.partition(":")
    file = Path(__file__).parents[3].joinpath(*module.split(".")).with_suffix(".py")
    assert f"def {function}(boot: ChildBoot) -> int:" in file.read_text()
