from argparse import ArgumentParser
from pathlib import Path

import pytest
import yaml

from extproc.cli.envoy_config import add_arguments, run


def test_prints_the_bootstrap_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "extproc.yaml"
    path.write_text("envoy: {listen_address: '127.0.0.1:18080'}\n")
    parser = ArgumentParser()
    add_arguments(parser)
    assert run(parser.parse_args(["-c", str(path)])) == 0
    output = capsys.readouterr()
    assert output.err == ""
    [listener] = yaml.safe_load(output.out)["static_resources"]["listeners"]
    assert listener["address"]["socket_address"]["port_value"] == 18080
