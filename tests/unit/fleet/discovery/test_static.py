from pathlib import Path

import pytest

from extproc.config.fleet import WorkerSpec
from extproc.config.load import Lists
from extproc.config.models import ModelSpec
from extproc.errors import ConfigurationError
from extproc.fleet.discovery.static import StaticLoader, static_source
from extproc.telemetry.metrics import Metrics
from tests.support.discovery import counted, watching
from tests.support.discovery_stages import write
from tests.support.workers_http import until

ONE = "workers: [{address: '10.0.0.1:80'}]\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "extproc.yaml"


def test_workers_may_be_left_out_until_there_were_some(path: Path) -> None:
    load = StaticLoader(workers_required=False)
    path.write_text("models: [{name: m}]\n")
    assert load(path) == Lists(models=(ModelSpec(name="m"),))
    path.write_text(ONE)
    assert load(path).workers == (WorkerSpec(address="10.0.0.1:80"),)
    path.write_text("models: [{name: m}]\n")
    with pytest.raises(ConfigurationError, match="workers: is missing"):
        load(path)


def test_workers_may_not_be_left_out_when_the_service_has_started_with_some(path: Path) -> None:
    path.write_text("models: [{name: m}]\n")
    with pytest.raises(ConfigurationError, match="workers: is missing"):
        StaticLoader(workers_required=True)(path)


async def test_readings_are_counted_as_reloads_of_the_configuration(path: Path) -> None:
    metrics = Metrics()
    write(path, ONE)
    source = static_source(path=path, interval_secs=0.02, workers_required=True, metrics=metrics)
    async with watching(source) as reports:
        await until(lambda: reports.lists)
        assert counted(metrics.reloads, result="ok") == 0
        write(path, "workers: []\nmodels: [{name: m}]\n")
        await until(lambda: reports.last == [])
        assert reports.lists[-1].models == (ModelSpec(name="m"),)
        assert counted(metrics.reloads, result="ok") == 1
        write(path, "workerz: []\n")
        await until(lambda: counted(metrics.reloads, result="invalid") == 1)
