"""The committed protobuf classes are what their definitions generate."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "extproc" / "pb"


def test_generating_again_changes_nothing(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "proto" / "generate.py"), str(tmp_path)], check=True, timeout=60)
    generated = {path.name: path.read_text() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_text() for path in COMMITTED.glob("*_pb2.py*")}
    assert generated == committed


def test_every_definition_has_its_classes() -> None:
    definitions = {path.stem for path in (ROOT / "proto").glob("*.proto")}
    assert definitions
    assert {path.name.removesuffix("_pb2.py") for path in COMMITTED.glob("*_pb2.py")} == definitions
