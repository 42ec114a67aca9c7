import pytest

from workers.engine.profile import load_profile
from workers.simulated.settings import Settings, numbered


def test_given_flags_replace_fields_of_the_profile() -> None:
    settings = Settings(profile="h100-8b", block_size=32, kv_cache_tokens=3200, max_loras=4)
    profile, whole = settings.load_profile(), load_profile("h100-8b")

    assert profile is not None
    assert (profile.block_size, profile.num_blocks, profile.max_loras) == (32, 100, 4)
    assert (profile.step, profile.frontend, profile.max_num_seqs) == (whole.step, whole.frontend, whole.max_num_seqs)


def test_without_a_profile_the_room_of_the_cache_is_in_tokens_too() -> None:
    assert Settings().load_profile() is None
    assert Settings().num_gpu_blocks == 1 << 20
    assert Settings(kv_cache_tokens=640, block_size=32).num_gpu_blocks == 20


def test_one_worker_is_as_it_was_told() -> None:
    settings = Settings(port=8000, name="w", kv_events_endpoint="ipc:///run/kv", kv_events_topic="kv")

    assert settings.of_worker(0) == settings


@pytest.mark.parametrize(
    ("endpoint", "third"),
    [
        ("tcp://*:5557", "tcp://*:5559"),
        ("tcp://[::]:5557", "tcp://[::]:5559"),
        ("tcp://127.0.0.1:*", "tcp://127.0.0.1:*"),
        ("tcp://host-{n}:5557", "tcp://host-2:5557"),
        ("ipc:///run/kv-{n}", "ipc:///run/kv-2"),
        ("", ""),
    ],
)
def test_endpoints_are_told_apart_by_number(endpoint: str, third: str) -> None:
    settings = Settings(
        workers=3, profile="h100-8b", kv_events_endpoint=endpoint or "tcp://*:1", kv_events_replay_endpoint=endpoint
    )

    assert settings.faults() == []
    assert settings.of_worker(2).kv_events_replay_endpoint == third


def test_ports_names_and_topics_are_told_apart_by_number() -> None:
    one = Settings(workers=3, port=8000, name="w", kv_events_topic="kv@{n}").of_worker(2)
    assert (one.port, one.name, one.kv_events_topic) == (8002, "w-2", "kv@2")
    one = Settings(workers=3, port=0, name="gpu{n}-w").of_worker(2)
    assert (one.port, one.name) == (0, "gpu2-w")
    assert Settings(workers=3).of_worker(2).name == ""


@pytest.mark.parametrize("endpoint", ["ipc:///run/kv", "ipc:///run/kv-{n}", "inproc://kv"])
def test_ranks_need_a_port_for_each(endpoint: str) -> None:
    settings = Settings(profile="h100-8b", data_parallel_size=2, kv_events_endpoint=endpoint)
    assert settings.faults() == ["--kv-events-endpoint needs a TCP port for several ranks"]
    assert Settings(profile="h100-8b", data_parallel_size=2, kv_events_endpoint="tcp://*:5557").faults() == []


def test_ranks_leave_room_between_the_ports_of_workers() -> None:
    settings = Settings(workers=3, data_parallel_size=4, kv_events_endpoint="tcp://*:5000")
    assert settings.of_worker(2).kv_events_endpoint == "tcp://*:5008"
    assert numbered(settings.of_worker(2).kv_events_endpoint, 3) == "tcp://*:5011"
