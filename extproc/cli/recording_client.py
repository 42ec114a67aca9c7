"""Asks a running service, over its admin port, to record."""

import http.client
import os
from pathlib import Path
from typing import Any

import msgspec

from extproc.config.address import TcpAddress, parse
from extproc.config.load import load_settings
from extproc.config.settings import Settings
from extproc.errors import StartupError
from extproc.recording.control import PATH, RecordingStatus, RecordingWanted

TIMEOUT_SECS = 5.0
MAX_ANSWER_BYTES = 1 << 16
_OK, _CONFLICT = 200, 409
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - what listens there is reached here


class RecordingUnreachable(StartupError):  # noqa: N818 - as the condition is called
    """The admin port does not answer."""


class RecordingClient:
    """Talks to the admin port at ``address``.

    Every call raises :class:`RecordingUnreachable` when nobody answers and :class:`StartupError` when the answer is no.
    """

    def __init__(self, address: TcpAddress) -> None:
        self._address = address

    def status(self) -> RecordingStatus:
        """Return what is recorded."""
        return self._call("GET")

    def begin(self, wanted: RecordingWanted) -> RecordingStatus:
        """Begin."""
        return self._call("POST", wanted)

    def end(self, recording: str) -> RecordingStatus:
        """End a recording, if it is the one that is under way."""
        return self._call("DELETE", path=f"{PATH}?recording={recording}")

    def _call(self, method: str, document: object = None, *, path: str = PATH) -> RecordingStatus:
        host = _ANYWHERE.get(self._address.host, self._address.host)
        connection = http.client.HTTPConnection(host, self._address.port, timeout=TIMEOUT_SECS)
        try:
            connection.request(method, path, body=None if document is None else msgspec.json.encode(document))
            answer = connection.getresponse()
            code, body = answer.status, answer.read(MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise RecordingUnreachable(
                f"no service answers at {self._address} ({str(error) or type(error).__name__}); "
                "name its admin port with --admin, or its configuration with -c"
            ) from error
        finally:
            connection.close()
        try:
            if code == _OK:
                return msgspec.json.decode(body, type=RecordingStatus)
            refusal = msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise StartupError(f"what answers at {self._address} is no admin port of this service") from error
        words = str(refusal.get("error", code))
        raise StartupError(words if code == _CONFLICT else f"{self._address}{PATH} answers {code}: {words}")


def admin_address(config: Path | None, address: str | None) -> TcpAddress:
    """Return the address of the admin port: the one given, that of a configuration file, or the usual one.

    Raises :class:`StartupError` or :class:`~extproc.errors.ConfigurationError`.
    """
    if address is None:
        settings = Settings() if config is None else load_settings(config, environ=os.environ, flags={})
        address = settings.admin.address
    try:
        parsed = parse(address)
    except ValueError as error:
        raise StartupError(f"--admin: {error}") from error
    if not isinstance(parsed, TcpAddress):
        raise StartupError(f"--admin: must be HOST:PORT, not {address!r}")
    return parsed
