"""Starts one vLLM server on CPU, on loopback: ``python -m workers.vllm.launch --model DIR --port PORT``.

The process becomes ``vllm serve``: its id is the server's, and SIGTERM to it ends all of the server's processes.
SIGKILL has to be sent to its process group, because the engine's processes outlive the one that is killed.

The server is ready when ``GET /health`` answers 200, after half a minute, nearly all of it Python imports. It is sized
so that two with the model of :mod:`workers.vllm.tiny_model` fit a small machine: 1.4 GB and one thread each, at low
priority.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from workers.vllm.install import DEFAULT_DIRECTORY

HOST = "127.0.0.1"
NICENESS = 10
MODEL_NAME = "tiny"
MAX_MODEL_LEN = 32_768


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server. Its KV cache has ``blocks`` blocks of ``block_tokens`` tokens.

    The CPU build wants ``block_tokens`` to be a multiple of 32. vLLM keeps one block for itself and does not start
    unless the others hold one request of ``max_model_len`` tokens.
    """

    model: Path
    port: int
    served_model_name: str = MODEL_NAME
    max_model_len: int = MAX_MODEL_LEN
    max_num_seqs: int = 8
    max_num_batched_tokens: int = 4096
    block_tokens: int = 32
    blocks: int = 1500


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
        *extra,
    ]  # fmt: skip


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """The environment: ``base`` without what concerns our own interpreter, nothing off loopback, no network."""
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
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Become the server; returns 1 when it cannot be started. Unknown arguments are handed to ``vllm serve``."""
    options, extra = _parser().parse_known_args(arguments)
    server = Server(
        model=options.model, port=options.port, served_model_name=options.name, max_model_len=options.max_model_len
    )
    os.nice(NICENESS)
    argv = command(server, executable=options.vllm, extra=extra)
    try:
        os.execve(argv[0], argv, environment(os.environ))  # noqa: S606 - our own command
    except OSError as error:
        sys.stderr.write(f"{options.vllm}: {error.strerror}; `python -m workers.vllm.install` makes it\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m workers.vllm.launch",
        description="Start one vLLM server on loopback. Further arguments are handed to `vllm serve`.",
        allow_abbrev=False,
    )
    vllm = DEFAULT_DIRECTORY / "bin" / "vllm"
    parser.add_argument("--vllm", type=Path, default=vllm, metavar="FILE", help=f"executable (default: {vllm})")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="model directory")
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1")
    parser.add_argument("--name", default=MODEL_NAME, help="served model name")
    parser.add_argument("--max-model-len", type=int, default=MAX_MODEL_LEN, metavar="TOKENS")
    return parser


if __name__ == "__main__":
    sys.exit(main())
