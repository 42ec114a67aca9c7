"""Where the admin port is, and what is said when it is somebody else, or nobody."""

import asyncio
from pathlib import Path

import pytest

from extproc.cli.recording_client import RecordingClient, RecordingUnreachable, admin_address
from extproc.config.address import TcpAddress
from extproc.errors import ConfigurationError, StartupError
from extproc.recording.control import RecordingWanted
from tests.support.envoy import free_ports


def test_the_admin_port_is_the_given_one_that_of_the_configuration_or_the_usual_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "extproc.yaml"
    config.write_text('admin: {address: "127.0.0.1:7"}')
    assert str(admin_address(None, None)) == "127.0.0.1:9090"
    assert str(admin_address(config, None)) == "127.0.0.1:7"
    assert str(admin_address(None, "[::1]:8")) == "[::1]:8"
    monkeypatch.setenv("EXTPROC_ADMIN_ADDRESS", "127.0.0.1:9")
    assert str(admin_address(config, None)) == "127.0.0.1:9"


@pytest.mark.parametrize("address", ["nowhere", "unix:/x", "h:99999"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(StartupError, match="--admin"):
        admin_address(None, address)


def test_a_bad_configuration_is_said(tmp_path: Path) -> None:
    config = tmp_path / "extproc.yaml"
    config.write_text("admin: 5")
    with pytest.raises(ConfigurationError):
        admin_address(config, None)


def test_nobody_answers() -> None:
    (port,) = free_ports(1)
    with pytest.raises(RecordingUnreachable, match=f"no service answers at 127.0.0.1:{port} .*refused.*--admin"):
        RecordingClient(TcpAddress("127.0.0.1", port)).status()


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", StartupError, "is no admin port of this service"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", StartupError, "is no admin port of this service"),
        (b'HTTP/1.1 404 No\r\ncontent-length: 17\r\n\r\n{"error": "what"}', StartupError, "answers 404: what"),
        (b'HTTP/1.1 409 No\r\ncontent-length: 17\r\n\r\n{"error": "busy"}', StartupError, "^busy$"),
        (b"SSH-2.0-OpenSSH\r\n", RecordingUnreachable, "no service answers"),
        (b"", RecordingUnreachable, "no service answers"),
    ],
)
async def test_somebody_else_answers_or_says_no(answer: bytes, kind: type[StartupError], words: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        client = RecordingClient(TcpAddress("127.0.0.1", server.sockets[0].getsockname()[1]))
        with pytest.raises(kind, match=words):
            await asyncio.to_thread(client.begin, RecordingWanted(secs=1))
