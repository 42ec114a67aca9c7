import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from workers.simulated.kv_events import is_bound
from workers.vllm.launch import (
    HOST,
    NICENESS,
    KvEvents,
    LaunchError,
    Server,
    command,
    default_kv_events,
    environment,
)

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


def events_config(argv: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(value(argv, "--kv-events-config"))
    return found


def test_announces_its_cache_where_it_is_told_to() -> None:
    events = KvEvents(endpoint="tcp://*:1", replay_endpoint="tcp://*:2", topic="t")
    argv = command(Server(model=Path("m"), port=1, kv_events=events), executable=Path("vllm"))

    assert events_config(argv) == {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": "tcp://*:1",
        "replay_endpoint": "tcp://*:2",
        "topic": "t",
    }


def test_announces_nothing_unless_told() -> None:
    assert "--kv-events-config" not in command(Server(model=Path("m"), port=1), executable=Path("vllm"))


def test_events_go_to_sockets_of_this_machine_that_the_engine_binds(tmp_path: Path) -> None:
    events = default_kv_events(port=8101, name="tiny", directory=tmp_path)

    assert is_bound(events.endpoint)
    for endpoint in (events.endpoint, events.replay_endpoint):
        assert endpoint.startswith(f"ipc://{tmp_path}/")
    assert events.endpoint != events.replay_endpoint
    assert events.topic == "kv@127.0.0.1:8101@tiny"


def test_neighbours_have_sockets_and_topics_of_their_own(tmp_path: Path) -> None:
    one, other = (default_kv_events(port=port, name="tiny", directory=tmp_path) for port in (8101, 8102))

    assert len({one.endpoint, one.replay_endpoint, other.endpoint, other.replay_endpoint}) == 4
    assert one.topic != other.topic


def test_events_of_ranks_go_to_ports_of_this_machine_that_the_reader_binds(tmp_path: Path) -> None:
    events = default_kv_events(port=8101, name="tiny", directory=tmp_path, data_parallel_size=8)

    assert not is_bound(events.endpoint)
    ports = []
    for endpoint in (events.endpoint, events.replay_endpoint):
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        assert host == HOST
        ports.append(int(port))
    assert abs(ports[0] - ports[1]) >= 64


def test_a_directory_too_deep_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="--kv-events-dir"):
        default_kv_events(port=8101, name="tiny", directory=tmp_path / ("x" * 100))


def test_one_engine_needs_no_ranks_and_several_are_asked_for() -> None:
    one, two = (
        command(Server(model=Path("m"), port=1, data_parallel_size=ranks), executable=Path("vllm")) for ranks in (1, 2)
    )

    assert "--data-parallel-size" not in one
    assert value(two, "--data-parallel-size") == "2"


def test_adapters_are_served_all_at_once() -> None:
    loras = {"ad1": Path("/loras/1"), "ad2": Path("/loras/2")}
    argv = command(Server(model=Path("m"), port=1, loras=loras), executable=Path("vllm"))

    assert "--enable-lora" in argv
    assert value(argv, "--max-loras") == "2"
    place = argv.index("--lora-modules")
    assert argv[place + 1 : place + 3] == ["ad1=/loras/1", "ad2=/loras/2"]


@pytest.mark.parametrize("dev", [False, True])
def test_development_routes_are_there_only_where_asked_for(dev: bool) -> None:
    assert environment({"VLLM_SERVER_DEV_MODE": "1"}, dev=dev)["VLLM_SERVER_DEV_MODE"] == str(int(dev))


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
    events = default_kv_events(port=8101, name="small", directory=Path(tempfile.gettempdir()))
    server = Server(model=Path("/models/tiny"), port=8101, served_model_name="small", kv_events=events)
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


def test_flags_of_the_launcher_reach_the_server(vllm: Path, tmp_path: Path) -> None:
    process = launch(
        *("--vllm", vllm, "--model", "m", "--port", "8101", "--block-tokens", "64", "--blocks", "600", "--dev"),
        *("--data-parallel-size", "2", "--lora", f"ad1={tmp_path}", "--kv-events-endpoint", "tcp://127.0.0.1:9000"),
    )
    output, _ = process.communicate(timeout=DEADLINE_SECS)

    seen = json.loads(output)
    arguments = seen["arguments"]
    assert value(arguments, "--block-size") == "64"
    assert value(arguments, "--num-gpu-blocks-override") == "600"
    assert value(arguments, "--data-parallel-size") == "2"
    assert value(arguments, "--lora-modules") == f"ad1={tmp_path}"
    assert events_config(arguments)["endpoint"] == "tcp://127.0.0.1:9000"
    assert events_config(arguments)["replay_endpoint"].startswith("tcp://127.0.0.1:")
    assert seen["environment"]["VLLM_SERVER_DEV_MODE"] == "1"


def test_events_can_be_left_out(vllm: Path) -> None:
    process = launch("--vllm", vllm, "--model", "m", "--port", "1", "--no-kv-events")
    output, _ = process.communicate(timeout=DEADLINE_SECS)

    assert "--kv-events-config" not in json.loads(output)["arguments"]


@pytest.mark.parametrize("text", ["ad1", "=dir", "ad1="])
def test_an_adapter_without_name_or_directory_is_refused(text: str) -> None:
    process = launch("--model", "m", "--port", "1", "--lora", text)
    _, errors = process.communicate(timeout=DEADLINE_SECS)

    assert process.returncode == 2
    assert "NAME=DIR" in errors


def test_a_socket_name_that_is_too_long_is_refused(vllm: Path, tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    process = launch("--vllm", vllm, "--model", "m", "--port", "1", "--kv-events-dir", deep)
    output, errors = process.communicate(timeout=DEADLINE_SECS)

    assert process.returncode == 1
    assert output == ""
    assert "--kv-events-dir" in errors


def test_a_missing_executable_says_how_to_make_it(tmp_path: Path) -> None:
    process = launch("--vllm", tmp_path / "gone", "--model", "m", "--port", "1")
    _, errors = process.communicate(timeout=DEADLINE_SECS)

    assert process.returncode == 1
    assert "workers.vllm.install" in errors
