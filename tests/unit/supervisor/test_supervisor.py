"""What needs no children; the rest is in ``tests/integration/test_supervisor.py``."""

from pathlib import Path

import pytest

from tests.support.supervised import supervised


@pytest.mark.parametrize("address", ["", "127.0.0.1:0"], ids=["own addresses only", "shared address"])
def test_a_run_directory_that_cannot_be_used_is_exit_code_3(tmp_path: Path, address: str) -> None:
    (tmp_path / "run").write_text("a file")
    with supervised(tmp_path, server={"shared_address": address}) as service:
        assert service.wait() == 3
        assert "Cannot start: supervisor.run_dir: cannot use" in service.log
        assert service.events == []
