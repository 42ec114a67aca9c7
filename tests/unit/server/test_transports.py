import subprocess
import sys
from typing import get_args, get_type_hints

import pytest

from extproc.config.server import ServerSettings
from extproc.server.transports import SERVERS, server_class


def test_every_configured_name_has_a_class_and_no_other() -> None:
    assert set(get_args(get_type_hints(ServerSettings)["transport"])) == set(SERVERS)
    assert {name: server_class(name).__name__ for name in SERVERS} == {  # type: ignore[attr-defined]
        "native": "NativeServer",
        "grpcio": "GrpcioServer",
    }


@pytest.mark.parametrize(("chosen", "other"), [("native", "grpc"), ("grpcio", "ngh2")])
def test_the_library_of_the_other_transport_is_not_imported(chosen: str, other: str) -> None:
    program = (
        "import sys; from extproc.server.transports import server_class; "
        f"server_class({chosen!r}); sys.exit({other!r} in sys.modules or 'cryptography' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
