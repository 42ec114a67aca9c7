"""Generate ``extproc/pb`` from the definitions beside this file.

Usage: ``python proto/generate.py [OUTPUT_DIRECTORY]`` (default: ``extproc/pb``). Needs the ``dev`` dependency group.
A test runs it into an empty directory and compares, so generated files never drift from their source.
"""

import sys
from pathlib import Path

from grpc_tools import protoc

SOURCE = Path(__file__).resolve().parent
PACKAGE = SOURCE.parent / "extproc" / "pb"


def generate(output: Path) -> None:
    """Write ``*_pb2.py`` and ``*_pb2.pyi`` for every definition into ``output``."""
    well_known_types = Path(protoc.__file__).parent / "_proto"
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={SOURCE}",
            f"--proto_path={well_known_types}",
            f"--python_out={output}",
            f"--plugin=protoc-gen-mypy={Path(sys.executable).with_name('protoc-gen-mypy')}",
            f"--mypy_out={output}",
            *(str(path) for path in sorted(SOURCE.glob("*.proto"))),
        ]
    )
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE)
