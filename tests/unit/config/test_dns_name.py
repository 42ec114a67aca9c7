import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.config.dns_name import DnsName, parse_dns_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("vllm:8000", DnsName("vllm", 8000)),
        ("vllm.default.svc.cluster.local.:1", DnsName("vllm.default.svc.cluster.local.", 1)),
        ("a_b.C-d:65535", DnsName("a_b.C-d", 65535)),
        ("srv:_http._tcp.vllm.default.svc", DnsName("_http._tcp.vllm.default.svc", None)),
        (f"{'a' * 63}.{'b' * 63}:80", DnsName(f"{'a' * 63}.{'b' * 63}", 80)),
        ("xn--bcher-kva.example:80", DnsName("xn--bcher-kva.example", 80)),
    ],
)
def test_reads_both_kinds(text: str, name: DnsName) -> None:
    assert parse_dns_name(text) == name
    assert str(name) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "vllm",
        ":80",
        "vllm:",
        "vllm:0",
        "vllm:http",
        "vllm:70000",
        "unix:/run/vllm",
        "http://vllm:80",
        "a..b:80",
        "-a:80",
        "a-:80",
        ".:80",
        "b\u00fccher.example:80",
        f"{'a' * 64}:80",
        f"{'a.' * 127}aa:80",
        "a b:80",
    ],
)
def test_refuses_what_is_neither(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be `HOST:PORT` with the name of a host, or `srv:NAME`; is '"):
        parse_dns_name(text)


@pytest.mark.parametrize("text", ["srv:", "srv:vllm:80", "srv:_http._tcp.vllm:80", "srv:a b", "srv:."])
def test_a_service_is_a_name_without_a_port(text: str) -> None:
    with pytest.raises(ValueError, match="must be `srv:NAME` without a port"):
        parse_dns_name(text)


@pytest.mark.parametrize("text", ["10.0.0.1:80", "[fd00::1]:80"])
def test_an_address_belongs_elsewhere(text: str) -> None:
    with pytest.raises(ValueError, match="is an address, not a name: it belongs in `workers`"):
        parse_dns_name(text)


@given(st.text(max_size=30) | st.text(alphabet="srv:a.-_1", max_size=12))
def test_any_text_is_read_to_what_it_says_or_refused(text: str) -> None:
    try:
        name = parse_dns_name(text)
    except ValueError:
        return
    assert parse_dns_name(str(name)) == name
