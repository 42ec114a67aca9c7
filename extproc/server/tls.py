"""The server's certificate: made at start, or read from files and read again when they change.

Both transports take PEM bytes from a :class:`CertificateSource`, so a pair of files is read once and checked as a whole
before anybody uses it: a certificate renewed before its key is never half in use.
"""

import asyncio
import datetime as dt
import logging
import os
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from extproc.config.server import ServerSettings

logger = logging.getLogger(__name__)

SELF_SIGNED_DAYS = 3650
"""Gateways that accept a self-signed certificate do not look at its dates; others should not be stopped by them."""


@dataclass(frozen=True, slots=True)
class CertificatePair:
    """A certificate chain and its key, as PEM."""

    chain: bytes
    key: bytes

    def load_into(self, context: ssl.SSLContext) -> None:
        """Let a context serve with this pair. Raises ``ssl.SSLError`` when the two do not fit."""
        # The ssl module reads certificates from files only.
        with tempfile.TemporaryDirectory(prefix="extproc-tls-") as directory:
            chain, key = Path(directory, "chain.pem"), Path(directory, "key.pem")
            chain.write_bytes(self.chain)
            key.write_bytes(self.key)
            context.load_cert_chain(chain, key, password=_no_password)

    def check(self) -> None:
        """Raise ``ssl.SSLError`` when the two cannot be used."""
        self.load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


class CertificateSource:
    """The pair in use; ``files`` settings are followed, a self-signed pair stays.

    Raises ``OSError`` (``ssl.SSLError`` is one) when made with files that cannot be used.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._interval_secs = settings.tls_reload_interval_secs
        self._paths: tuple[str, str] | None = None
        self._seen: tuple[tuple[int, int, int], ...] = ()
        if settings.tls == "files":
            self._paths = (settings.tls_certificate_file, settings.tls_private_key_file)
            self._seen = _signature(self._paths)
            self.pair = _read(self._paths)
        else:
            self.pair = self_signed_pair()

    async def follow(
        self, *, on_change: Callable[[CertificatePair], None], on_reload: Callable[[Literal["ok", "failed"]], None]
    ) -> None:
        """Look for changed files, for ever.

        ``on_change`` gets each usable pair; an unusable one is logged and the old one stays. ``on_reload`` is told of
        either.
        """
        while self._paths is not None:
            await asyncio.sleep(self._interval_secs)
            try:
                signature = _signature(self._paths)
                if signature == self._seen:
                    continue
                self._seen = signature
                pair = _read(self._paths)
            except OSError as error:
                logger.error("The changed TLS certificate cannot be used, the old one stays: %s", error)  # noqa: TRY400
                on_reload("failed")
                continue
            self.pair = pair
            on_change(pair)
            logger.info("The TLS certificate is reloaded")
            on_reload("ok")


def server_context(pair: CertificatePair) -> ssl.SSLContext:
    """Return a context for HTTP/2 servers: TLS 1.2 and later, ``h2`` by ALPN."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    pair.load_into(context)
    return context


def self_signed_pair() -> CertificatePair:
    """Make a key and a certificate for it."""
    # 12 MB that only a process with a self-signed certificate needs.
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "llm-extproc")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=SELF_SIGNED_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return CertificatePair(
        chain=certificate.public_bytes(serialization.Encoding.PEM),
        key=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )


def _signature(paths: tuple[str, str]) -> tuple[tuple[int, int, int], ...]:
    """What differs when a file was written or replaced."""
    statuses = [os.stat(path) for path in paths]  # noqa: PTH116
    return tuple((status.st_ino, status.st_mtime_ns, status.st_size) for status in statuses)


def _read(paths: tuple[str, str]) -> CertificatePair:
    pair = CertificatePair(chain=Path(paths[0]).read_bytes(), key=Path(paths[1]).read_bytes())
    pair.check()
    return pair


def _no_password() -> str:
    """Refuse an encrypted key instead of asking on the terminal."""
    raise ssl.SSLError("the private key is encrypted")
