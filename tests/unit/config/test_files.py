from pathlib import Path

import pytest

from extproc.config.files import file_problem


def test_a_file_is_good(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert file_problem(str(file)) == ""


@pytest.mark.parametrize("path", ["/missing", "/", "/dev/null", "", "/" + "x" * 4000, "/etc/passwd/x"])
def test_anything_else_is_told_with_its_path(path: str) -> None:
    assert file_problem(path) == f"{path!r} is not a file that can be read"
