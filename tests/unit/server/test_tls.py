"""Certificates, on their own and served by both transports."""

import asyncio
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from extproc.config.server import ServerSettings
from extproc.server.base import CloseReason, Listener
from extproc.server.tls import CertificatePair, CertificateSource, self_signed_pair
from tests.support.grpc_client import GrpcClient
from tests.support.raw_http2 import raw_peer
from tests.support.servers import Running, eventually, running


@pytest.fixture(params=["native", "grpcio"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class CertificateFiles:
    def __init__(self, directory: Path) -> None:
        self.chain, self.key = directory / "tls.crt", directory / "tls.key"

    @property
    def settings(self) -> ServerSettings:
        return ServerSettings(
            tls="files",
            tls_certificate_file=str(self.chain),
            tls_private_key_file=str(self.key),
            tls_reload_interval_secs=0.05,
        )

    def write(self, *, chain: bytes, key: bytes) -> None:
        """Replace both as certificate managers do."""
        for path, content in ((self.chain, chain), (self.key, key)):
            beside = path.with_suffix(".new")
            beside.write_bytes(content)
            beside.rename(path)

    def write_pair(self) -> CertificatePair:
        pair = self_signed_pair()
        self.write(chain=pair.chain, key=pair.key)
        return pair


@pytest.fixture
def files(tmp_path: Path) -> CertificateFiles:
    files = CertificateFiles(tmp_path)
    files.write_pair()
    return files


async def served_certificate(server: Running) -> bytes:
    """Shake hands as HTTP/2 clients do and return the certificate as PEM."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
    connection = writer.get_extra_info("ssl_object")
    assert connection.selected_alpn_protocol() == "h2"
    assert connection.version() in {"TLSv1.2", "TLSv1.3"}
    writer.transport.abort()
    return ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True)).encode()


async def test_serves_with_a_certificate_made_at_start(transport: str) -> None:
    async with running(transport, settings=ServerSettings(tls="self_signed")) as server:
        certificate = await served_certificate(server)
        async with GrpcClient(server.address, root_certificates=certificate) as client:
            assert await client.echo(b"x" * 6_000_000) == b"x" * 6_000_000


async def test_each_start_makes_another_certificate(transport: str) -> None:
    made = []
    for _ in range(2):
        async with running(transport, settings=ServerSettings(tls="self_signed")) as server:
            made.append(await served_certificate(server))
    assert made[0] != made[1]


async def test_serves_with_a_certificate_from_files(transport: str, files: CertificateFiles) -> None:
    certificate = files.chain.read_bytes()
    async with (
        running(transport, settings=files.settings) as server,
        GrpcClient(server.address, root_certificates=certificate) as client,
    ):
        assert await client.echo(b"hello") == b"hello"


async def test_changed_files_are_used_for_new_connections(transport: str, files: CertificateFiles) -> None:
    old = files.chain.read_bytes()
    async with (
        running(transport, settings=files.settings) as server,
        GrpcClient(server.address, root_certificates=old) as client,
    ):
        stream = client.process()
        await stream.ask(b"before")
        pair = files.write_pair()
        await eventually(lambda: "ok" in server.tls_reloads)
        assert await served_certificate(server) == pair.chain
        assert await stream.ask(b"after") == b"after"
        async with GrpcClient(server.address, root_certificates=pair.chain) as other:
            assert await other.echo(b"hello") == b"hello"


@pytest.mark.parametrize("fault", ["not PEM", "keys differ", "missing"])
async def test_an_unusable_change_is_told_and_the_old_certificate_stays(
    transport: str, files: CertificateFiles, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    old = files.chain.read_bytes()
    key = files.key.read_bytes()
    async with running(transport, settings=files.settings) as server:
        if fault == "not PEM":
            files.write(chain=b"nonsense", key=key)
        elif fault == "keys differ":
            files.write(chain=self_signed_pair().chain, key=key)
        else:
            files.chain.unlink()
        await eventually(lambda: "failed" in server.tls_reloads)
        assert await served_certificate(server) == old
        assert "cannot be used" in caplog.text
        pair = files.write_pair()
        await eventually(lambda: "ok" in server.tls_reloads)
        assert await served_certificate(server) == pair.chain


async def test_an_unusable_pair_at_the_start_is_an_error(
    transport: str, files: CertificateFiles, tmp_path: Path
) -> None:
    files.key.write_bytes(self_signed_pair().key)
    listeners = [Listener("127.0.0.1:0"), Listener(f"unix:{tmp_path}/r.sock")]
    with pytest.raises(ssl.SSLError):
        async with running(transport, settings=files.settings, listeners=listeners):
            pass
    with pytest.raises(FileNotFoundError):
        await asyncio.open_unix_connection(str(tmp_path / "r.sock"))


async def test_unix_sockets_stay_plaintext(transport: str, tmp_path: Path) -> None:
    listeners = [Listener(f"unix:{tmp_path}/r.sock"), Listener("127.0.0.1:0")]
    async with (
        running(transport, settings=ServerSettings(tls="self_signed"), listeners=listeners) as server,
        GrpcClient(server.address) as client,
    ):
        assert await client.echo(b"hello") == b"hello"


async def test_a_peer_that_speaks_no_tls_is_cut() -> None:
    async with running("native", settings=ServerSettings(tls="self_signed")) as server:
        certificate = await served_certificate(server)
        async with raw_peer(server.address, greet=False) as peer:
            peer.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" * 10)
            await peer.rest()
        await eventually(lambda: bool(server.closed))
        assert server.closed == {CloseReason.TLS_FAILED: 1}
        async with GrpcClient(server.address, root_certificates=certificate) as client:
            assert await client.echo(b"hello") == b"hello"


def test_an_encrypted_key_is_refused_without_asking(files: CertificateFiles) -> None:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ssl.SSLError, match="encrypted"):
        CertificateSource(files.settings)


def test_the_made_certificate_is_an_elliptic_curve_one_for_localhost() -> None:
    certificate = x509.load_pem_x509_certificate(self_signed_pair().chain)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert certificate.signature_hash_algorithm is not None
    assert certificate.signature_hash_algorithm.name == "sha256"
