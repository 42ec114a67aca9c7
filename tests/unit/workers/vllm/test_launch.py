import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from workers.vllm.launch import HOST, NICENESS, Server, command, environment

DEADLINE_SECS = 30.0
SHOWS_ITSELF = f"""#!{sys.executable}
import json, os, sys
seen = {{"pid": os.getpid(), "nice": os.nice(0), "arguments": sys.argv[1:], "environment": dict(os.environ)}}
print(json.dumps(seen))
"""


@pytest.fixture
def vllm(tmp_path: Path) -> Path:
    """An executable that prints how it was started."""
    path = tmp_path / "vllm"
    path.write_text(SHOWS_ITSELF)
    path.chmod(0o755)
    return path


def launch(*arguments: str | Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "workers.vllm.launch", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def value(argv: list[str], flag: str) -> str:
    """The last value of a flag: the one that counts."""
    return argv[len(argv) - argv[::-1].index(flag)]


def test_serves_the_model_on_loopback() -> None:
    argv = command(Server(model=Path("/models/tiny"), port=8101), executable=Path("/venv/bin/vllm"))

    assert argv[:3] == ["/venv/bin/vllm", "serve", "/models/tiny"]
    assert value(argv, "--host") == HOST == "127.0.0.1"
    assert value(argv, "--port") == "8101"
    assert value(argv, "--served-model-name") == "tiny"


def test_needs_little_memory_and_no_compilation() -> None:
    server = Server(model=Path("m"), port=1, blocks=64, block_tokens=64, max_model_len=2048, max_num_seqs=2)
    argv = command(server, executable=Path("vllm"))

    assert value(argv, "--num-gpu-blocks-override") == "64"
    assert value(argv, "--block-size") == "64"
    assert value(argv, "--max-model-len") == "2048"
    assert value(argv, "--max-num-seqs") == "2"
    assert "--enforce-eager" in argv


def test_default_cache_holds_a_request_of_the_greatest_length() -> None:
    server = Server(model=Path("m"), port=1)

    assert (server.blocks - 1) * server.block_tokens >= server.max_model_len
    assert server.block_tokens % 32 == 0


@pytest.mark.parametrize(
    "flag", ["--enable-prefix-caching", "--enable-prompt-tokens-details", "--enable-request-id-headers"]
)
def test_tells_what_a_router_wants_to_know(flag: str) -> None:
    assert flag in command(Server(model=Path("m"), port=1), executable=Path("vllm"))


def test_further_arguments_come_last() -> None:
    argv = command(Server(model=Path("m"), port=1), executable=Path("vllm"), extra=["--block-size", "128"])

    assert value(argv, "--block-size") == "128"


def test_environment_keeps_everything_on_loopback_and_offline() -> None:
    made = environment({"VLLM_HOST_IP": "10.0.0.1", "HF_HUB_OFFLINE": "0"})

    assert made["VLLM_HOST_IP"] == made["VLLM_LOOPBACK_IP"] == HOST
    assert made["GLOO_SOCKET_IFNAME"] == "lo"
    assert made["HF_HUB_OFFLINE"] == made["TRANSFORMERS_OFFLINE"] == made["VLLM_NO_USAGE_STATS"] == "1"


def test_environment_bounds_memory_and_threads() -> None:
    made = environment({"OMP_NUM_THREADS": "64"})

    assert made["VLLM_CPU_KVCACHE_SPACE"] == made["OMP_NUM_THREADS"] == "1"


def test_environment_keeps_the_callers_but_for_its_interpreter() -> None:
    base = {"PATH": "/bin", "HOME": "/home/user", "PYTHONPATH": "/project", "PYTHONHOME": "/usr"}

    made = environment(base)

    assert made["PATH"] == "/bin"
    assert made["HOME"] == "/home/user"
    assert not [name for name in made if name.startswith("PYTHON")]
    assert base["PYTHONPATH"] == "/project"


def test_the_process_becomes_the_server(vllm: Path) -> None:
    process = launch("--vllm", vllm, "--model", "/models/tiny", "--port", "8101", "--name", "small")
    output, _ = process.communicate(timeout=DEADLINE_SECS)

    seen = json.loads(output)
    server = Server(model=Path("/models/tiny"), port=8101, served_model_name="small")
    assert seen["pid"] == process.pid
    assert seen["arguments"] == command(server, executable=vllm)[1:]
    assert environment(os.environ).items() <= seen["environment"].items()
    assert seen["nice"] == min(19, os.nice(0) + NICENESS)


def test_unknown_flags_are_handed_on(vllm: Path) -> None:
    process = launch("--vllm", vllm, "--model", "m", "--port", "1", "--max-model-len", "4096", "--enable-lora")
    output, _ = process.communicate(timeout=DEADLINE_SECS)

    arguments = json.loads(output)["arguments"]
    assert arguments[-1] == "--enable-lora"
    assert value(arguments, "--max-model-len") == "4096"


def test_a_missing_executable_says_how_to_make_it(tmp_path: Path) -> None:
    process = launch("--vllm", tmp_path / "gone", "--model", "m", "--port", "1")
    _, errors = process.communicate(timeout=DEADLINE_SECS)

    assert process.returncode == 1
    assert "workers.vllm.install" in errors
