import pytest

from extproc.pb.ext_proc_pb2 import HeaderMap, HeaderValue
from extproc.stream.headers import RequestHeaders


def test_is_a_mapping_of_text() -> None:
    headers = RequestHeaders(HeaderMap(headers=[HeaderValue(key="a", raw_value=b"1"), HeaderValue(key="b", value="2")]))
    assert dict(headers) == {"a": "1", "b": "2"}
    assert len(headers) == 2
    assert "a" in headers
    with pytest.raises(KeyError):
        headers["c"]
    assert headers.get("c", "none") == "none"


def test_repeated_names_are_joined() -> None:
    repeated = [HeaderValue(key="a", raw_value=b"1"), HeaderValue(key="a", value="2"), HeaderValue(key="a")]
    assert RequestHeaders(HeaderMap(headers=repeated))["a"] == "1,2,"


def test_bytes_that_are_no_text_do_not_fail() -> None:
    assert RequestHeaders(HeaderMap(headers=[HeaderValue(key="a", raw_value=b"\xff")]))["a"] == "\ufffd"
