"""Starts one vLLM server on CPU, on loopback: ``python -m workers.vllm.launch --model DIR --port PORT``.

The process becomes ``vllm serve``: its id is the server's, and SIGTERM to it ends all of the server's processes.
SIGKILL has to be sent to its process group, because the engine's processes outlive the one that is killed.

The server is ready when ``GET /health`` answers 200, after half a minute, nearly all of it Python imports. It is sized
so that two with the model of :mod:`workers.vllm.tiny_model` fit a small machine: 1.4 GB and one thread each, at low
priority.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from workers.vllm.install import DEFAULT_DIRECTORY

HOST = "127.0.0.1"
NICENESS = 10
MODEL_NAME = "tiny"
MAX_MODEL_LEN = 32_768
BLOCK_TOKENS = 32
BLOCKS = 1500
# Data parallel ranks add their number to the ports of events, so those of two neighbours must lie apart.
EVENTS_PORT_OFFSET = 1000
REPLAY_PORT_OFFSET = 1500
# The kernel's limit for the address of a Unix socket, less its terminating zero.
MAX_IPC_PATH_BYTES = 107


class LaunchError(Exception):
    """The server cannot be started as asked; the message says why."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KvEvents:
    """Where a server announces what its cache gains and loses, and under which topic.

    vLLM binds an ``endpoint`` that has ``*``, ``::`` or ``ipc:`` in it and connects to any other, which then its reader
    has to bind. It always binds the ``replay_endpoint``.
    """

    endpoint: str
    replay_endpoint: str
    topic: str

    def as_json(self) -> str:
        """The value of ``--kv-events-config``."""
        return json.dumps({"enable_kv_cache_events": True, "publisher": "zmq", **dataclasses.asdict(self)})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server. Its KV cache has ``blocks`` blocks of ``block_tokens`` tokens.

    The CPU build wants ``block_tokens`` to be a multiple of 32. vLLM keeps one block for itself and does not start
    unless the others hold one request of ``max_model_len`` tokens. ``loras`` are directories of adapters by the name
    that clients ask for. ``kv_events`` is None where nothing is to be announced.
    """

    model: Path
    port: int
    served_model_name: str = MODEL_NAME
    max_model_len: int = MAX_MODEL_LEN
    max_num_seqs: int = 8
    max_num_batched_tokens: int = 4096
    block_tokens: int = BLOCK_TOKENS
    blocks: int = BLOCKS
    data_parallel_size: int = 1
    loras: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    kv_events: KvEvents | None = None


def default_kv_events(*, port: int, name: str, directory: Path, data_parallel_size: int = 1) -> KvEvents:
    """Endpoints on this machine alone, for the server on ``port``.

    Unix sockets in ``directory`` that the engine binds: of TCP endpoints it binds only those that are open to the whole
    network. vLLM cannot number Unix sockets by data parallel rank, so ranks connect to ports that the reader binds.
    Raises :class:`LaunchError` for a directory whose name is too long.
    """
    topic = f"kv@{HOST}:{port}@{name}"
    if data_parallel_size > 1:
        endpoint, replay = (f"tcp://{HOST}:{port + offset}" for offset in (EVENTS_PORT_OFFSET, REPLAY_PORT_OFFSET))
        return KvEvents(endpoint=endpoint, replay_endpoint=replay, topic=topic)
    files = [directory.resolve() / f"vllm-kv-{kind}-{port}.ipc" for kind in ("events", "replay")]
    for file in files:
        if len(os.fsencode(file)) > MAX_IPC_PATH_BYTES:
            raise LaunchError(f"{file} is too long for a Unix socket: name a shorter --kv-events-dir")
    return KvEvents(endpoint=f"ipc://{files[0]}", replay_endpoint=f"ipc://{files[1]}", topic=topic)


def command(server: Server, *, executable: Path, extra: Sequence[str] = ()) -> list[str]:
    """The command line; ``extra`` arguments of ``vllm serve`` come last, so they win."""
    return [
        str(executable), "serve", str(server.model),
        "--served-model-name", server.served_model_name,
        "--host", HOST,
        "--port", str(server.port),
        "--dtype", "bfloat16",
        "--enforce-eager",
        "--max-model-len", str(server.max_model_len),
        "--max-num-seqs", str(server.max_num_seqs),
        "--max-num-batched-tokens", str(server.max_num_batched_tokens),
        "--block-size", str(server.block_tokens),
        "--num-gpu-blocks-override", str(server.blocks),
        "--enable-prefix-caching",
        "--enable-prompt-tokens-details",
        "--enable-server-load-tracking",
        "--enable-request-id-headers",
        *_optional(server),
        *extra,
    ]  # fmt: skip


def _optional(server: Server) -> list[str]:
    flags: list[str] = []
    if server.kv_events is not None:
        flags += ["--kv-events-config", server.kv_events.as_json()]
    if server.data_parallel_size > 1:
        flags += ["--data-parallel-size", str(server.data_parallel_size)]
    if server.loras:
        flags += ["--enable-lora", "--max-loras", str(len(server.loras)), "--lora-modules"]
        flags += [f"{name}={directory}" for name, directory in server.loras.items()]
    return flags


def environment(base: Mapping[str, str], *, dev: bool = False) -> dict[str, str]:
    """The environment: ``base`` without what concerns our own interpreter, nothing off loopback, no network.

    ``dev`` opens the routes of vLLM's development mode, ``/reset_prefix_cache`` among them.
    """
    kept = {name: value for name, value in base.items() if not name.startswith("PYTHON")}
    return kept | {
        # GiB, whole ones only. An upper bound that --num-gpu-blocks-override undercuts; the default is much of the RAM.
        "VLLM_CPU_KVCACHE_SPACE": "1",
        # Several servers share the cores; each would bind its threads to the same ones.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_HOST_IP": HOST,
        "VLLM_LOOPBACK_IP": HOST,
        "GLOO_SOCKET_IFNAME": "lo",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_SERVER_DEV_MODE": "1" if dev else "0",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Become the server; returns 1 when it cannot be started. Unknown arguments are handed to ``vllm serve``."""
    options, extra = _parser().parse_known_args(arguments)
    try:
        argv = command(_server(options), executable=options.vllm, extra=extra)
    except LaunchError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    os.nice(NICENESS)
    try:
        os.execve(argv[0], argv, environment(os.environ, dev=options.dev))  # noqa: S606 - our own command
    except OSError as error:
        sys.stderr.write(f"{options.vllm}: {error.strerror}; `python -m workers.vllm.install` makes it\n")
        return 1


def _server(options: argparse.Namespace) -> Server:
    return Server(
        model=options.model,
        port=options.port,
        served_model_name=options.name,
        max_model_len=options.max_model_len,
        block_tokens=options.block_tokens,
        blocks=options.blocks,
        data_parallel_size=options.data_parallel_size,
        loras=dict(options.lora),
        kv_events=_kv_events(options),
    )


def _kv_events(options: argparse.Namespace) -> KvEvents | None:
    if options.no_kv_events:
        return None
    default = default_kv_events(
        port=options.port,
        name=options.name,
        directory=options.kv_events_dir,
        data_parallel_size=options.data_parallel_size,
    )
    return KvEvents(
        endpoint=options.kv_events_endpoint or default.endpoint,
        replay_endpoint=options.kv_events_replay_endpoint or default.replay_endpoint,
        topic=default.topic,
    )


def _lora(text: str) -> tuple[str, Path]:
    name, equals, directory = text.partition("=")
    if not (name and equals and directory):
        raise argparse.ArgumentTypeError("must be NAME=DIR")
    return name, Path(directory)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m workers.vllm.launch",
        description="Start one vLLM server on loopback. Further arguments are handed to `vllm serve`.",
        allow_abbrev=False,
    )
    vllm = DEFAULT_DIRECTORY / "bin" / "vllm"
    add = parser.add_argument
    add("--vllm", type=Path, default=vllm, metavar="FILE", help=f"executable (default: {vllm})")
    add("--model", type=Path, required=True, metavar="DIR", help="model directory")
    add("--port", type=int, required=True, help="port on 127.0.0.1")
    add("--name", default=MODEL_NAME, help="served model name")
    add("--max-model-len", type=int, default=MAX_MODEL_LEN, metavar="TOKENS")
    add("--block-tokens", type=int, default=BLOCK_TOKENS, metavar="TOKENS", help="tokens of a block of the KV cache")
    add("--blocks", type=int, default=BLOCKS, metavar="BLOCKS", help="blocks of the KV cache")
    add("--data-parallel-size", type=int, default=1, metavar="RANKS", help="engines inside the server")
    add("--lora", type=_lora, action="append", default=[], metavar="NAME=DIR", help="serve an adapter; repeatable")
    add("--dev", action="store_true", help="vLLM's development routes, as /reset_prefix_cache")
    add("--no-kv-events", action="store_true", help="announce nothing of the KV cache")
    directory = Path(tempfile.gettempdir())
    add("--kv-events-dir", type=Path, default=directory, metavar="DIR", help="place of the Unix sockets of KV events")
    add("--kv-events-endpoint", default="", metavar="URL", help="instead: where the events go")
    add("--kv-events-replay-endpoint", default="", metavar="URL", help="instead: where lost events are asked for")
    return parser


if __name__ == "__main__":
    sys.exit(main())
