from pathlib import Path

import pytest

from extproc.config.files import directory_problem, file_problem


def test_a_file_is_good(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert file_problem(str(file)) == ""


@pytest.mark.parametrize("path", ["/missing", "/", "/dev/null", "", "/" + "x" * 4000, "/etc/passwd/x"])
def test_anything_else_is_told_with_its_path(path: str) -> None:
    assert file_problem(path) == f"{path!r} is not a file that can be read"


def test_a_directory_is_good(tmp_path: Path) -> None:
    assert directory_problem(str(tmp_path)) == ""


@pytest.mark.parametrize("path", ["/missing", "/dev/null", "/" + "x" * 4000, "/etc/passwd/x"])
def test_what_is_no_directory_is_told_with_its_path(path: str) -> None:
    assert directory_problem(path) == f"{path!r} is not a directory that can be written to"


def test_a_directory_that_depends_on_where_one_stands_is_not_good() -> None:
    assert directory_problem(".") == "must be an absolute path; is '.'"
