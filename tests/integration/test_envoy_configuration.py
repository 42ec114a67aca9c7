"""The real Envoy accepts everything we generate or ship."""

from pathlib import Path

import pytest

from extproc.config.endpoints import eds_file
from extproc.config.settings import Settings
from extproc.dataplane.bootstrap import bootstrap_yaml
from extproc.dataplane.eds import EndpointFile
from tests.support.bootstraps import STANDALONE
from tests.support.envoy import validate
from tests.support.envoy_stage import settings_for

CASES: dict[str, dict[str, object]] = {
    "defaults": {},
    "tcp": {"server__router_address": "127.0.0.1:7000"},
    "tls": {"server__router_address": "0.0.0.0:7000", "server__tls": "self_signed"},
    "fail-closed": {"envoy__fail_open": False},
    "decision-header": {"routing__decision_header": True},
    "no-response-phase": {"envoy__response_headers": False},
    "single": {"routing__destination": "single"},
    "single-fail-closed": {"routing__destination": "single", "envoy__fail_open": False},
    "no-retries": {"envoy__retries": 0},
    "largest": {
        "server__max_body_bytes": 1 << 30,
        "server__max_streams_per_connection": 1_000_000,
        "supervisor__routers": 32,
        "envoy__retries": 32,
        "envoy__lost_after_secs": 3600,
        "envoy__hung_after_secs": 86_400,
    },
    "smallest": {
        "server__max_body_bytes": 1024,
        "server__max_streams_per_connection": 1,
        "envoy__message_timeout_secs": 0.1,
        "envoy__connect_timeout_secs": 0.05,
        "envoy__lost_after_secs": 0.001,
        "envoy__hung_after_secs": 0.001,
        "envoy__upstream_idle_timeout_secs": 0.1,
    },
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
async def test_envoy_accepts_the_generated_configuration(changes: dict[str, object], tmp_path: Path) -> None:
    settings = settings_for(tmp_path, **changes)
    EndpointFile(path=Path(eds_file(settings))).write([])
    assert await validate(bootstrap_yaml(settings), directory=tmp_path) == ""


async def test_envoy_accepts_the_commented_file(tmp_path: Path) -> None:
    EndpointFile(path=tmp_path / "eds.json").write([])
    text = STANDALONE.read_text().replace("/run/extproc", str(tmp_path))
    assert await validate(text, directory=tmp_path) == ""


async def test_envoy_says_what_is_wrong_with_a_bad_file(tmp_path: Path) -> None:
    settings = Settings(supervisor=settings_for(tmp_path).supervisor)
    complaint = await validate(bootstrap_yaml(settings), directory=tmp_path)
    assert "eds.json" in complaint, "the endpoint file has to exist before Envoy starts"
