"""Models are loaded at the start, within limits, and followed from then on."""

import asyncio
import logging
from pathlib import Path

import pytest

from extproc.config.models import ModelSpec
from extproc.models.follower import ModelFollower
from tests.support.readers import Reading, make_spec
from tests.support.waiting import until

PATIENCE_SECS = 60


def follow(reading: Reading, specs: list[ModelSpec]) -> ModelFollower:
    return ModelFollower(shelf=reading.shelf, specs=lambda: specs, interval_secs=0.01)


async def loaded(reading: Reading, name: str) -> bool:
    found = reading.shelf.find(name)
    return found is not None and found.model is not None


async def gone(reading: Reading, name: str) -> bool:
    return reading.shelf.find(name) is None


async def test_models_are_loaded_when_the_beginning_is_over(tmp_path: Path) -> None:
    reading = Reading()
    await follow(reading, [make_spec(tmp_path, "qwen")]).begin(patience_secs=PATIENCE_SECS)
    assert await loaded(reading, "qwen")


async def test_what_takes_too_long_is_known_by_name_and_loaded_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reading = Reading()
    follower = follow(reading, [make_spec(tmp_path, "qwen")])
    with caplog.at_level(logging.WARNING):
        await follower.begin(patience_secs=0)
    assert "still being loaded" in caplog.text
    running = asyncio.get_running_loop().create_task(follower.run())
    await until(lambda: loaded(reading, "qwen"))
    running.cancel()


async def test_changes_of_the_list_are_followed(tmp_path: Path) -> None:
    reading = Reading()
    specs = [make_spec(tmp_path, "qwen")]
    follower = follow(reading, specs)
    await follower.begin(patience_secs=PATIENCE_SECS)
    running = asyncio.get_running_loop().create_task(follower.run())
    specs.append(make_spec(tmp_path, "llama3"))
    await until(lambda: loaded(reading, "llama3"))
    specs.pop(0)
    await until(lambda: gone(reading, "qwen"))
    assert await loaded(reading, "llama3")
    running.cancel()
