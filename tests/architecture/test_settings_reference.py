"""The page of settings says what the declarations say."""

from extproc.config.catalogue import entries
from extproc.config.reference import PAGE, render


def test_the_page_is_the_one_made_from_the_declarations() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run `python -m extproc.config.reference`"


def test_the_page_has_a_row_for_every_setting() -> None:
    page = render()
    assert [path for path, entry in entries().items() if f"`{entry.environment_name}` |" not in page] == []


def test_every_declaration_explains_itself_in_a_sentence() -> None:
    assert [path for path, entry in entries().items() if not entry.declaration.help.rstrip().endswith(".")] == []


def test_every_number_has_a_lower_bound() -> None:
    """Counts, sizes and times are never negative; a setting without bounds would accept -1."""
    numbers = {path: entry for path, entry in entries().items() if entry.type in (int, float)}
    assert [path for path, entry in numbers.items() if entry.declaration.low is None] == []


def test_names_in_the_environment_and_as_flags_are_unique() -> None:
    every = list(entries().values())
    assert len({entry.environment_name for entry in every}) == len(every)
    assert len({entry.flag for entry in every}) == len(every)
