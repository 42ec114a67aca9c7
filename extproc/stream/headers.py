"""Request headers as a mapping that is built only when somebody looks."""

from collections.abc import Iterator, Mapping

from extproc.pb.ext_proc_pb2 import HeaderMap


class RequestHeaders(Mapping[str, str]):
    """The headers of one message, by lower-case name.

    Envoy sends values in ``raw_value``; other data planes and older tools use ``value``. Both are read. A name that
    occurs several times has its values joined by commas, as HTTP allows (RFC 9110, section 5.3).
    """

    __slots__ = ("_fields",)

    def __init__(self, message: HeaderMap) -> None:
        headers = message.headers
        self._fields: dict[str, bytes | str] = {header.key: header.raw_value or header.value for header in headers}
        if len(self._fields) != len(headers):
            self._fields = _joined(message)

    def __getitem__(self, name: str) -> str:
        return _text(self._fields[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def get(self, name: str, default: str = "") -> str:  # type: ignore[override]
        """The value of a header; the mixin's own ``get`` costs an exception when it is absent."""
        value = self._fields.get(name)
        if value is None:
            return default
        return value.decode("utf-8", "replace") if type(value) is bytes else value  # type: ignore[return-value]


def _joined(message: HeaderMap) -> dict[str, bytes | str]:
    """The slow way, for the rare message in which a name occurs several times."""
    fields: dict[str, bytes | str] = {}
    for header in message.headers:
        value = header.raw_value or header.value
        known = fields.get(header.key)
        fields[header.key] = value if known is None else f"{_text(known)},{_text(value)}"
    return fields


def _text(value: bytes | str) -> str:
    return value if type(value) is str else value.decode("utf-8", "replace")  # type: ignore[union-attr]
