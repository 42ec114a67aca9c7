"""Python packages with entry points, installed for one test: a directory that goes on the path."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

Group = TypeVar("Group", bound=str)


def install(
    directory: Path, *, package: str, entry_points: Mapping[Group, Mapping[str, str]], modules: Mapping[str, str]
) -> Path:
    """Lay a package out as an installer does; returns the directory to put on the path.

    ``entry_points`` are objects (`module:object`) by name, by group; ``modules`` are sources by module name.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name, source in modules.items():
        (directory / f"{name}.py").write_text(source)
    metadata = directory / f"{package}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    sections = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in entry_points.items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(sections))
    return directory


WATCHES_A_FILE = '''
import asyncio
from extproc.config.fleet import WorkerSpec
from extproc.config.load import Lists


class Source:
    """Reports the addresses in the file that the option `file` names, one a line; the word `fail` makes it fail."""

    def __init__(self, *, options, metrics):
        self._file = options["file"]

    async def watch(self, on_lists):
        seen = None
        while True:
            with open(self._file) as file:
                lines = file.read().split()
            if "fail" in lines:
                raise RuntimeError("told to fail")
            if lines != seen:
                seen = lines
                on_lists(Lists(workers=tuple(WorkerSpec(address=line) for line in lines)))
            await asyncio.sleep(0.01)
'''
"""A discovery plugin as a third party may write it."""
