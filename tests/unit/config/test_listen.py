from dataclasses import replace

import pytest

from extproc.config.listen import find_listen_faults, unknown_placeholder
from extproc.config.server import ServerSettings
from extproc.config.settings import Settings
from extproc.config.supervisor import SupervisorSettings

THREE_ROUTERS = Settings(supervisor=SupervisorSettings(routers=3, run_dir="/run/x"))


def faults_with(**changes: str) -> list[str]:
    """Return the faults of settings with other addresses; a keyword is GROUP__SETTING."""
    settings = THREE_ROUTERS
    for path, value in changes.items():
        group, _, name = path.partition("__")
        settings = replace(settings, **{group: replace(getattr(settings, group), **{name: value})})
    return [str(fault) for fault in find_listen_faults(settings)]


def test_the_defaults_are_good() -> None:
    assert faults_with() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"server__router_address": "127.0.0.1:50051", "server__shared_address": "0.0.0.0:9002"},
        {"server__router_address": "[::1]:65533"},
        {"server__shared_address": "some-host.internal:9002"},
        {"envoy__listen_address": "localhost:8080"},
        {"admin__address": "127.0.0.2:8080"},
        {"admin__address": "127.0.0.1:0", "server__shared_address": "127.0.0.1:0"},
    ],
)
def test_takes_addresses_that_do_not_meet(changes: dict[str, str]) -> None:
    assert faults_with(**changes) == []


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        (
            {"envoy__listen_address": "host:80"},
            ["envoy.listen_address: must be `IP:PORT` with an IP address, not 'host:80'"],
        ),
        (
            {"envoy__admin_address": "127.0.0.1:0"},
            ["envoy.admin_address: must have a port from 1 to 65535, not '127.0.0.1:0'"],
        ),
        ({"admin__address": "unix:/a"}, ["admin.address: must be `HOST:PORT`, not 'unix:/a'"]),
        (
            {"server__shared_address": "9002"},
            ["server.shared_address: '9002' is neither unix:PATH nor HOST:PORT with a port from 0 to 65535"],
        ),
        (
            {"server__router_address": "unix:{run_dir}/r.sock"},
            ["server.router_address: must contain `{index}`: every router has a socket of its own"],
        ),
        (
            {"server__router_address": "unix:{rundir}/r-{index}.sock"},
            ["server.router_address: knows only `{run_dir}` and `{index}` in braces"],
        ),
        (
            {"server__router_address": "unix:r-{index}.sock"},
            ["server.router_address: must be an absolute path; is 'r-2.sock'"],
        ),
        (
            {"server__router_address": "[::1]:5{index}"},
            ["server.router_address: '[::1]:5{index}' is neither unix:PATH nor HOST:PORT with a port from 0 to 65535"],
        ),
        (
            {"server__router_address": "127.0.0.1:65534"},
            ["server.router_address: leaves no port for each of 3 routers: the last one would be 65536"],
        ),
        (
            {"server__router_address": "127.0.0.1:0"},
            ["server.router_address: must have a port from 1 to 65535, not '127.0.0.1:0'"],
        ),
        (
            {"admin__address": "127.0.0.1:9901"},
            ["admin.address: port 9901 is also taken by `envoy.admin_address`"],
        ),
        (
            {"admin__address": "localhost:9901"},
            ["admin.address: port 9901 is also taken by `envoy.admin_address`"],
        ),
        (
            {"server__shared_address": "0.0.0.0:9090"},
            ["server.shared_address: port 9090 is also taken by `admin.address`"],
        ),
        (
            {"server__router_address": "127.0.0.1:8078"},
            ["server.router_address: port 8080 is also taken by `envoy.listen_address`"],
        ),
        (
            {"envoy__listen_address": "[::]:9000", "admin__address": "[0:0::1]:9000"},
            ["admin.address: port 9000 is also taken by `envoy.listen_address`"],
        ),
    ],
)
def test_says_which_address_cannot_be_listened_on(changes: dict[str, str], faults: list[str]) -> None:
    assert faults_with(**changes) == faults


@pytest.mark.parametrize(("length", "good"), [(107, True), (108, False)])
def test_a_socket_path_fits_into_a_socket_address(length: int, good: bool) -> None:
    name = "/r-{index}.sock"
    directory = "/" + "é" + "x" * (length - 3 - len("/r-0.sock"))
    settings = Settings(
        server=ServerSettings(router_address="unix:{run_dir}" + name),
        supervisor=SupervisorSettings(routers=10, run_dir=directory),
    )
    assert (find_listen_faults(settings) == []) is good


def test_the_longest_index_counts() -> None:
    directory = "/" + "x" * (106 - len("/router-0.sock"))
    supervisor = SupervisorSettings(routers=10, run_dir=directory)
    assert find_listen_faults(Settings(supervisor=supervisor)) == []
    assert find_listen_faults(Settings(supervisor=replace(supervisor, routers=11))) != []


def test_only_known_placeholders_stand_in_braces() -> None:
    assert unknown_placeholder("{a}/x", "{a}") == ""
    assert unknown_placeholder("{a}/{b}", "{a}") == "knows only `{a}` in braces"
    assert unknown_placeholder("}", "{a}") == "knows only `{a}` in braces"
