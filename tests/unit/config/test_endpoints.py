import os

import pytest

from extproc.config.dataplane import EnvoySettings
from extproc.config.endpoints import eds_file, router_address, router_addresses, router_count
from extproc.config.server import ServerSettings
from extproc.config.settings import Settings
from extproc.config.supervisor import SupervisorSettings


def settings_with(router_address: str, *, routers: int = 3) -> Settings:
    return Settings(
        server=ServerSettings(router_address=router_address),
        supervisor=SupervisorSettings(routers=routers, run_dir="/run/x"),
    )


def test_zero_routers_is_one_for_each_core() -> None:
    assert router_count(settings_with("", routers=0)) == len(os.sched_getaffinity(0))
    assert router_count(settings_with("", routers=7)) == 7


@pytest.mark.parametrize(
    ("template", "addresses"),
    [
        ("unix:{run_dir}/r-{index}.sock", ("unix:/run/x/r-0.sock", "unix:/run/x/r-1.sock", "unix:/run/x/r-2.sock")),
        ("127.0.0.1:9000", ("127.0.0.1:9000", "127.0.0.1:9001", "127.0.0.1:9002")),
        ("[::1]:9000", ("[::1]:9000", "[::1]:9001", "[::1]:9002")),
    ],
)
def test_every_router_has_an_address_of_its_own(template: str, addresses: tuple[str, ...]) -> None:
    settings = settings_with(template)
    assert router_addresses(settings) == addresses
    assert router_address(settings, 2) == addresses[2]


def test_templates_are_filled_in_as_text_only() -> None:
    assert router_address(settings_with("unix:/{index.__class__}{0}{index}"), 1) == "unix:/{index.__class__}{0}1"


def test_the_endpoint_file_lies_in_the_run_directory_unless_set() -> None:
    supervisor = SupervisorSettings(run_dir="/run/x")
    assert eds_file(Settings(supervisor=supervisor)) == "/run/x/eds.json"
    assert eds_file(Settings(supervisor=supervisor, envoy=EnvoySettings(eds_file="/a/b"))) == "/a/b"
