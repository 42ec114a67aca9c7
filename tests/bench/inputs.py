"""What is sent, and the models that it is sent to: texts that no other request has, conversations and their bodies."""

import json
import random
import shutil
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from tests.support.models import TEMPLATES, make_model

Message = dict[str, Any]


class Texts:
    """Cuts texts from longer ones, each once."""

    def __init__(self, sources: Iterable[str]) -> None:
        self._sources = iter(sources)
        self._rest = ""

    def cut(self, size: int) -> str:
        """Return the next ``size`` characters, all of them ASCII."""
        while len(self._rest) < size:
            self._rest += next(self._sources).encode("ascii", "ignore").decode()
        text, self._rest = self._rest[:size], self._rest[size:]
        return text


def code() -> Iterator[str]:
    """Yield the sources of the standard library."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*/*.py"))
    random.Random(4).shuffle(files)
    return (file.read_text(errors="ignore") for file in files)


def prose() -> Iterator[str]:
    """Yield the chapters of Python's manual, some 700 KB."""
    return iter(topics.values())


def conversation(texts: Texts, *, turns: int, size: int) -> list[Message]:
    """``turns`` messages of ``size`` bytes in all, the last one a user's."""
    roles = ["user", "assistant"] * (turns // 2) if turns > 1 else ["user"]
    messages: list[Message] = [{"role": role, "content": texts.cut(size // turns)} for role in roles]
    return messages if turns == 1 else [*messages[1:], {"role": "user", "content": texts.cut(size // turns)}]


def make_bench_model(directory: Path, kind: str) -> Path:
    """Write the files of a model."""
    make_model(directory, "deepseek")
    if kind == "chatml":
        path = directory / "tokenizer.json"
        document = json.loads(path.read_text())
        last = max(token["id"] for token in document["added_tokens"])
        like = {**document["added_tokens"][0], "special": True, "normalized": False}
        names = ("<|im_start|>", "<|im_end|>")
        document["added_tokens"] += [{**like, "id": last + 1 + at, "content": name} for at, name in enumerate(names)]
        path.write_text(json.dumps(document))
        shutil.copy(TEMPLATES / "qwen2_5.jinja", directory / "chat_template.jinja")
    return directory


def body_of(messages: Sequence[Message]) -> bytes:
    return json.dumps({"model": "bench", "messages": messages, "max_tokens": 16}).encode()
