import json
import logging
from collections.abc import Iterator

import pytest

from extproc.telemetry.logging import configure_logging


@pytest.fixture(autouse=True)
def _root_logger_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_text_lines_name_the_process(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(level="info", style="text", process_name="router-1")
    logging.getLogger("extproc.x").info("hello %s", "you")
    logging.getLogger("extproc.x").debug("unseen")
    line = capsys.readouterr().err
    assert "router-1" in line
    assert "hello you" in line
    assert "unseen" not in line


def test_json_lines_are_objects_with_the_exception(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(level="warning", style="json", process_name="observer")
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("extproc.x").exception("It failed")
    record = json.loads(capsys.readouterr().err)
    assert (record["level"], record["process"], record["message"]) == ("error", "observer", "It failed")
    assert "ValueError: broken" in record["exception"]
