"""``extproc tokenize``: what becomes of a prompt, without a service."""

import argparse
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from extproc.api.paths import DECODERS
from extproc.config.load import load_settings
from extproc.config.models import ModelSpec
from extproc.config.settings import Settings
from extproc.errors import InvalidRequest, ModelUnusable, StartupError
from extproc.models.inspection import Inspection, inspect, read_body
from extproc.models.model import Model, load_model
from extproc.models.source import find_source
from extproc.shm.layout import Part
from extproc.shm.segment import Segment
from extproc.shm.token_store import MIN_STORE_BYTES, TokenStore

CHAT_PATH = "/v1/chat/completions"
TEXT_PATH = "/v1/completions"
MAX_INPUT_BYTES = 256 << 20
EXIT_REFUSED = 1
_SHOWN_IDS = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of the command."""
    parser.add_argument(
        "--model",
        required=True,
        help="a configured model (with -c), or a directory, tokenizer file, package or hub name",
    )
    parser.add_argument("-c", "--config", type=Path, metavar="FILE", help="configuration file that names the model")
    parser.add_argument(
        "--chat",
        type=Path,
        metavar="FILE",
        help="JSON: a list of messages or a whole request body; `-` is standard input",
    )
    parser.add_argument(
        "--path", choices=sorted(DECODERS), help=f"whose body it is (default: {CHAT_PATH}, or {TEXT_PATH} for a text)"
    )
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Tokenize standard input, a text, or the messages of a file, twice: without and with what the first run cached."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    settings = Settings() if arguments.config is None else load_settings(arguments.config, environ=os.environ, flags={})
    spec, adapter = _spec(arguments.model, settings, configured=arguments.config is not None)
    try:
        model = load_model(
            spec,
            source=find_source(spec),
            wanted=settings.tokens.backend,
            store=_private_store(),
            min_prefix_bytes=settings.tokens.min_prefix_bytes,
        )
        path, body = _body(arguments)
        request = read_body(path, body)
        runs = [inspect(model, adapter, request) for _ in range(2)]
    except ModelUnusable as error:
        raise StartupError(f"model {spec.name}: {error}") from error
    except InvalidRequest as refusal:
        where = f" (param: {refusal.param})" if refusal.param else ""
        print(f"{refusal.status} {refusal.reason}: {refusal.message}{where}", file=sys.stderr)
        return EXIT_REFUSED
    if arguments.json:
        sys.stdout.buffer.write(msgspec.json.encode({"first": runs[0], "again": runs[1]}) + b"\n")
    else:
        _show_model(model)
        for first, again in zip(*runs, strict=True):
            _show(first, again)
    return 0


def _spec(name: str, settings: Settings, *, configured: bool) -> tuple[ModelSpec, str]:
    for spec in settings.models:
        if name in (spec.name, *spec.aliases):
            return spec, ""
        if name in spec.lora_adapters:
            return spec, name
    if configured:
        raise StartupError(f"model {name}: is not among the `models` of the configuration")
    return ModelSpec(name=name), ""


def _private_store() -> TokenStore:
    segment = Segment.create({Part.TOKEN_STORE: MIN_STORE_BYTES})
    TokenStore.prepare(segment.part(Part.TOKEN_STORE))
    return TokenStore(memory=segment.part(Part.TOKEN_STORE), fd=segment.fd)


def _body(arguments: argparse.Namespace) -> tuple[str, bytes]:
    """Return the API whose body it is, and the body with the model's name in it."""
    if arguments.chat is None:
        body: dict[str, Any] = {"prompt": _read(Path("-")).decode(errors="surrogateescape")}
        return arguments.path or TEXT_PATH, _with_model(body, arguments.model)
    content = _read(arguments.chat)
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{arguments.chat}: not valid JSON: {error}") from error
    if isinstance(document, list):
        document = {"messages": document}
    if not isinstance(document, dict):
        raise InvalidRequest(f"{arguments.chat}: must be a list of messages or a request body")
    return arguments.path or CHAT_PATH, _with_model(document, arguments.model)


def _with_model(body: dict[str, Any], name: str) -> bytes:
    try:
        return json.dumps({**body, "model": name}, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest("The input is not UTF-8 text.") from error


def _read(path: Path) -> bytes:
    try:
        if str(path) == "-":
            return sys.stdin.buffer.read(MAX_INPUT_BYTES)
        with path.open("rb") as file:
            return file.read(MAX_INPUT_BYTES)
    except OSError as error:
        raise StartupError(f"{path}: cannot be read: {error.strerror or error}") from error


def _show_model(model: Model) -> None:
    why = f" ({model.backend.reason})" if model.backend.reason else ""
    print(f"encoder: {model.backend.encoder.name}{why}")


def _show(first: Inspection, again: Inspection) -> None:
    if first.text is not None:
        print(f"\ntext, {len(first.text.encode()):,} bytes:\n{first.text}")
    more = f" ... and {first.count - _SHOWN_IDS:,} more" if first.count > _SHOWN_IDS else ""
    print(f"\nids, {first.count:,}:\n{' '.join(map(str, first.tokens[:_SHOWN_IDS]))}{more}")
    if not first.exact:
        print("not exact: the engine adds tokens for images and other media")
    print(f"\nblocks of {first.block_size}: {first.blocks:,}")
    print(f"boundaries, {len(first.boundaries):,}:")
    for cut in first.boundaries:
        print(f"  byte {cut.bytes:>9,}  token {cut.tokens:>8,}  after {cut.after}")
    for title, inspection in (("first", first), ("again", again)):
        steps = "  ".join(
            f"{name} {secs * 1e6:,.0f} us" for name, secs in msgspec.structs.asdict(inspection.seconds).items()
        )
        reused = f"{inspection.reused_bytes:,} bytes and {inspection.reused_tokens:,} tokens reused"
        print(f"{title}: {inspection.cache}, {reused}; {steps}")
