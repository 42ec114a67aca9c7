from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.children import Children


@pytest.fixture
def children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Children]:
    """Real children over a real segment; what is left at the end is killed."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    made = Children(tmp_path)
    yield made
    made.close()
