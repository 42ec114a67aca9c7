"""Virtual time is counted, never waited for or looked up: a simulation gives the same whenever and wherever it runs."""

import ast
from pathlib import Path

import pytest

import extproc.simulation

PACKAGE = Path(extproc.simulation.__file__).parent
PURE = PACKAGE / "loads"


def modules(root: Path) -> list[Path]:
    return sorted(root.rglob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", modules(PACKAGE), ids=name)
def test_nothing_sleeps(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.Attribute) and node.attr == "sleep")
        assert not (isinstance(node, ast.Name) and node.id == "sleep")


@pytest.mark.parametrize("path", modules(PURE), ids=name)
def test_loads_have_no_clock_and_no_randomness_but_their_own(path: Path) -> None:
    assert not imported(path) & {"time", "datetime", "random", "secrets", "os", "uuid"}
