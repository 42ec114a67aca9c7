"""What keeps the code readable for whoever comes next: small files and functions, tests where one looks for them."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_MODULE_LINES = 500
MAX_FUNCTION_LINES = 70


def sources(*packages: str) -> list[Path]:
    return [
        path
        for package in packages
        for path in sorted((ROOT / package).rglob("*.py"))
        if "pb" not in path.parts and path.name != "__init__.py"
    ]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", sources("extproc", "workers", "tests", "proto"), ids=name)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_MODULE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or node.lineno) - node.lineno < MAX_FUNCTION_LINES, node.name


@pytest.mark.parametrize("path", sources("extproc"), ids=name)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", sorted((ROOT / "extproc").rglob("__init__.py")), ids=name)
def test_every_package_states_what_belongs_in_it(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("package", sorted(path.parent for path in (ROOT / "extproc").rglob("__init__.py")), ids=name)
def test_every_package_has_its_tests_under_its_own_name(package: Path) -> None:
    if package.name in {"extproc", "pb"}:
        return
    assert list((ROOT / "tests" / "unit" / package.relative_to(ROOT / "extproc")).glob("test_*.py"))
