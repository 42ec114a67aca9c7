"""What every HTTP request to a worker has in common, whatever is read of its answer."""

import re

MAX_STATUS_LINE_BYTES = 1024

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: |\r?\n)")


def split_address(address: str) -> tuple[str, int]:
    """Return host, without the brackets of an IPv6 address, and port of a worker's ``HOST:PORT``."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def get_request(*, host: str, port: int, path: str, keep: bool = False, accept: str = "*/*") -> bytes:
    """Return a ``GET`` with all of its headers. The connection is meant to end with the answer unless ``keep``."""
    shown_host = f"[{host}]" if ":" in host else host
    closing = "" if keep else "Connection: close\r\n"
    return f"GET {path} HTTP/1.1\r\nHost: {shown_host}:{port}\r\n{closing}Accept: {accept}\r\n\r\n".encode()


def read_status(start: bytes) -> tuple[int, int]:
    """Return HTTP's minor version and the status from what an answer starts with.

    Raises ``ValueError`` when it is not HTTP.
    """
    found = _STATUS_LINE.match(start)
    if not found:
        raise ValueError("the answer is not HTTP")
    return int(found[1]), int(found[2])
