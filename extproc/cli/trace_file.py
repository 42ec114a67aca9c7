"""The file of a trace, which is there as a whole or not at all."""

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import msgspec

from extproc.errors import StartupError


class TraceFile:
    """A trace to be written to ``path``, with at most ``max_bytes``.

    Nothing stands at ``path`` until :meth:`finish`. Opening it raises :class:`StartupError` when something stands there
    already, or nothing can be written beside it.
    """

    def __init__(self, path: Path, *, max_bytes: int | None) -> None:
        self.path = path
        self.lines = 0
        self.size = 0
        self._max_bytes = max_bytes
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._file: IO[bytes] | None = None
        self._encode = msgspec.json.Encoder().encode

    def __enter__(self) -> Self:
        """Begin."""
        if self.path.exists():
            raise StartupError(f"--out: {self.path} exists already")
        try:
            fd = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StartupError(f"--out: {self.path} cannot be written: {error.strerror or error}") from error
        self._file = os.fdopen(fd, "wb")
        return self

    def add(self, line: object) -> bool:
        """Write a line; False, and nothing is written, when there is no room for it."""
        assert self._file is not None, "it is open"
        data = self._encode(line) + b"\n"
        if self._max_bytes is not None and self.size + len(data) > self._max_bytes:
            return False
        self._file.write(data)
        self.size += len(data)
        self.lines += 1
        return True

    def finish(self) -> None:
        """Put it into its place; raises ``OSError``, as :meth:`add` does."""
        assert self._file is not None, "it is open"
        self._file.close()
        self._temporary.replace(self.path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing behind that is not finished."""
        if self._file is not None:
            # What could not be written is tried once more by closing; that it fails was said before.
            with suppress(OSError):
                self._file.close()
            self._temporary.unlink(missing_ok=True)
