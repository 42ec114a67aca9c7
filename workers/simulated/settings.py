"""Settings of one simulated worker, declared once: flags, bounds and the README's table are derived from here."""

import argparse
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, get_args, get_origin

from workers.simulated.faults import MAX_FAIL_NEXT, Behaviour, Mode

MIB = 1 << 20
MAX_ANSWER_TOKENS = 100_000
MAX_TTFT_SECS = 3600.0
MAX_TOKEN_SECS = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Declaration:
    """Help and inclusive bounds of a setting; ``flag`` names it where the field's own name does not."""

    help: str
    low: float | None = None
    high: float | None = None
    flag: str = ""


def _setting(
    default: object,
    help: str,  # noqa: A002 - the word that argparse uses for it
    *,
    low: float | None = None,
    high: float | None = None,
    flag: str = "",
) -> Any:  # noqa: ANN401 - stands in for a field of any type, as dataclasses.field does
    declaration = Declaration(help=help, low=low, high=high, flag=flag)
    return dataclasses.field(default=default, metadata={"setting": declaration})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set when a worker starts."""

    host: str = _setting("127.0.0.1", "Address to listen on.")
    port: int = _setting(8000, "Port to listen on; 0 picks a free one, which the ready line names.", low=0, high=65535)
    name: str = _setting("", "Name in `x-worker` and `system_fingerprint`. Empty: `HOST:PORT`.")
    models: tuple[str, ...] = _setting(
        ("tiny",), "A model it serves; repeatable. Metrics carry the first, as vLLM's do.", flag="model"
    )
    ttft_secs: float = _setting(
        0.02, "Time to first token; a request's `x-sim-ttft-secs` wins.", low=0, high=MAX_TTFT_SECS
    )
    token_secs: float = _setting(
        0.002, "Time of each further token; a request's `x-sim-token-secs` wins.", low=0, high=MAX_TOKEN_SECS
    )
    max_tokens: int = _setting(
        16, "Length of an answer that neither the request nor `x-sim-tokens` limits.", low=1, high=MAX_ANSWER_TOKENS
    )
    max_model_len: int = _setting(
        1 << 25, "Prompt and answer together may have this many tokens; a longer request is answered 400.", low=1
    )
    max_num_seqs: int = _setting(
        4096, "Requests that run at once; further ones wait, and are counted as waiting.", low=1, high=1_000_000
    )
    block_size: int = _setting(16, "Tokens in one block of the key-value cache.", low=1, high=4096)
    num_gpu_blocks: int = _setting(1 << 20, "Blocks of the key-value cache.", low=1)
    keep_alive_secs: float = _setting(
        5.0, "A connection idle for this long is closed, as vLLM's HTTP server does.", low=0.05, high=86_400
    )
    drain_secs: float = _setting(
        1.0, "On SIGTERM, requests in flight get this long to end; then their connections are closed.", low=0, high=3600
    )
    max_body_bytes: int = _setting(
        128 * MIB, "Largest request body; a larger one is answered 413.", low=1024, high=1024 * MIB
    )
    remember_requests: int = _setting(100, "Requests that `GET /sim/requests` can show.", low=0, high=10_000)
    mode: Mode = _setting(  # noqa: RUF009 - the declaration is as immutable as that of its neighbours
        "ok", "How it misbehaves from the start; see `POST /sim/behaviour`."
    )
    error_status: int = _setting(500, "Status of deliberate errors.", low=500, high=599)
    fail_next: int = _setting(
        0, "The next requests, this many, are answered `error-status`.", low=0, high=MAX_FAIL_NEXT
    )
    unhealthy: bool = _setting(False, "`GET /health` answers 503 while requests are served.")  # noqa: FBT003
    stall_after_tokens: int = _setting(
        -1, "An answer stops coming after this many tokens, until told otherwise; -1: never.", low=-1
    )

    @property
    def behaviour(self) -> Behaviour:
        """How the worker behaves until it is told otherwise."""
        return Behaviour(
            mode=self.mode,
            error_status=self.error_status,
            fail_next=self.fail_next,
            unhealthy=self.unhealthy,
            stall_after_tokens=self.stall_after_tokens,
        )


def parse_flags(arguments: Sequence[str]) -> Settings:
    """Read the command line. Prints the fault and exits with status 2 when it cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m workers.simulated", description="A vLLM-shaped simulated worker.")
    for field in dataclasses.fields(Settings):
        _add_flag(parser, field)
    values: dict[str, Any] = vars(parser.parse_args(arguments))
    if "models" in values:
        values["models"] = tuple(values["models"])
    return Settings(**values)


def flag_table() -> str:
    """Every flag as a Markdown table, as the README shows it."""
    rows = ["| flag | default | what |", "|---|---|---|"]
    for field in dataclasses.fields(Settings):
        declaration: Declaration = field.metadata["setting"]
        default = ", ".join(field.default) if isinstance(field.default, tuple) else field.default
        shown = "off" if default is False else f"`{default}`" if default != "" else ""
        choices = f" One of {', '.join(f'`{mode}`' for mode in get_args(Mode))}." if field.name == "mode" else ""
        rows.append(f"| `--{_flag(field)}` | {shown} | {declaration.help}{choices} |")
    return "\n".join(rows)


def _flag(field: "dataclasses.Field[Any]") -> str:
    declaration: Declaration = field.metadata["setting"]
    return declaration.flag or field.name.replace("_", "-")


def _add_flag(parser: argparse.ArgumentParser, field: "dataclasses.Field[Any]") -> None:
    declaration: Declaration = field.metadata["setting"]
    options: dict[str, Any] = {"dest": field.name, "help": declaration.help.replace("%", "%%")}
    if field.type is bool:
        options["action"] = "store_true"
    elif get_origin(field.type) is tuple:
        options |= {"action": "append", "metavar": "NAME"}
    elif field.type is Mode:
        options |= {"choices": get_args(Mode), "default": field.default}
    else:
        options |= {
            "type": functools.partial(_bounded, field.type, declaration),
            "default": field.default,
            "metavar": "TEXT" if field.type is str else "N",
        }
    if options.get("action") == "append":
        options["default"] = argparse.SUPPRESS
    parser.add_argument(f"--{_flag(field)}", **options)


def _bounded(kind: Any, declaration: Declaration, text: str) -> Any:  # noqa: ANN401 - str, int or float by the field
    try:
        value = kind(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error
    if kind is str:
        return value
    # Written so that NaN is out of bounds too.
    if declaration.low is not None and not value >= declaration.low:
        raise argparse.ArgumentTypeError(f"{text} is below {declaration.low}")
    if declaration.high is not None and not value <= declaration.high:
        raise argparse.ArgumentTypeError(f"{text} is above {declaration.high}")
    return value
