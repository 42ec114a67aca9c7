"""Whatever the tests import is declared: none of it comes along by chance."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
OURS = {"extproc", "workers", "tests"}


def imported() -> set[str]:
    """Top-level names of the foreign modules that the tests import, wherever in a file."""
    names = set()
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module)
    return {name.partition(".")[0] for name in names} - OURS - sys.stdlib_module_names


def declared() -> set[str]:
    """Distributions that a developer's installation asks for by name."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, groups = document["project"], document["dependency-groups"]
    lists = [project["dependencies"], *project["optional-dependencies"].values(), *groups.values()]
    lines = [line for one in lists for line in one if isinstance(line, str)]
    return {normal(re.split(r"[^A-Za-z0-9._-]", line)[0]) for line in lines}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_what_the_tests_import_is_declared() -> None:
    owners = packages_distributions()
    undeclared = {name for name in imported() if not {normal(owner) for owner in owners.get(name, ())} & declared()}
    assert undeclared == set()
