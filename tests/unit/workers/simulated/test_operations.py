"""Health, load, metrics and the paths that steer a worker."""

import json
from unittest.mock import Mock

import pytest
from aiohttp.test_utils import make_mocked_request
from prometheus_client.parser import text_string_to_metric_families

from tests.support.simulated_worker import SimulatedWorker
from workers.simulated.operations import from_loopback

COMPLETION = b'{"model":"tiny","prompt":"abcdefgh","max_tokens":3}'


def samples(worker: SimulatedWorker) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Every sample by its exposed name."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(worker.metrics()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return found


def value(worker: SimulatedWorker, name: str, **labels: str) -> float:
    wanted = {"engine": "0", "model_name": "tiny"} | labels
    return next(number for found, number in samples(worker)[name] if found == wanted)


@pytest.mark.parametrize("path", ["/health", "/ping", "/version", "/load", "/metrics", "/kv_event_sources"])
def test_operational_paths_answer_200_and_are_not_counted(worker: SimulatedWorker, path: str) -> None:
    assert worker.call("GET", path)[0] == 200
    assert worker.requests()["by_path"] == {}


def test_health_has_no_body(worker: SimulatedWorker) -> None:
    assert worker.call("GET", "/health") == (200, b"")


def test_metrics_have_vllms_names_types_and_labels(worker: SimulatedWorker) -> None:
    types = {family.name: family.type for family in text_string_to_metric_families(worker.metrics())}
    found = samples(worker)

    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "cache_config_info"):
        assert types[f"vllm:{name}"] == "gauge"
    for name in (
        "prefix_cache_queries",
        "prefix_cache_hits",
        "prompt_tokens",
        "prompt_tokens_by_source",
        "generation_tokens",
        "request_success",
        "num_preemptions",
    ):
        assert types[f"vllm:{name}"] == "counter"
        assert f"vllm:{name}_total" in found
    for name in (
        "e2e_request_latency_seconds",
        "time_to_first_token_seconds",
        "inter_token_latency_seconds",
        "request_prefill_time_seconds",
        "request_prefill_kv_computed_tokens",
        "request_prompt_tokens",
    ):
        assert types[f"vllm:{name}"] == "histogram"
    cache = found["vllm:cache_config_info"][0][0]
    assert (cache["engine"], cache["block_size"], cache["num_gpu_blocks"]) == ("0", "16", "1048576")
    assert {labels["finished_reason"] for labels, _ in found["vllm:request_success_total"]} == {
        "stop",
        "length",
        "abort",
        "error",
    }


def test_a_request_moves_the_counters(worker: SimulatedWorker) -> None:
    names = (
        "vllm:prompt_tokens_total",
        "vllm:prefix_cache_queries_total",
        "vllm:generation_tokens_total",
        "vllm:e2e_request_latency_seconds_count",
        "vllm:time_to_first_token_seconds_count",
        "vllm:inter_token_latency_seconds_count",
        "vllm:request_prefill_time_seconds_count",
        "vllm:request_prefill_kv_computed_tokens_sum",
    )
    before = {name: value(worker, name) for name in names}
    cut_before = value(worker, "vllm:request_success_total", finished_reason="length")

    assert worker.call("POST", "/v1/completions", COMPLETION)[0] == 200

    assert {name: value(worker, name) - before[name] for name in names} == dict(
        zip(names, (2, 2, 3, 1, 1, 2, 1, 2), strict=True)
    )
    assert value(worker, "vllm:request_success_total", finished_reason="length") - cut_before == 1


def test_scripted_workers_have_no_cache_to_tell_of(worker: SimulatedWorker) -> None:
    assert worker.call("GET", "/kv_event_sources") == (200, b"{}")
    assert worker.call("POST", "/reset_prefix_cache") == (200, b"")
    assert worker.call("GET", "/reset_prefix_cache")[0] == 405


def test_behaviour_is_shown_as_it_was_set(worker: SimulatedWorker) -> None:
    worker.behave(mode="error", error_status=502, fail_next=3)

    assert json.loads(worker.call("GET", "/sim/behaviour")[1]) == {
        "mode": "error",
        "error_status": 502,
        "fail_next": 3,
        "unhealthy": False,
        "stall_after_tokens": -1,
    }


@pytest.mark.parametrize(
    "behaviour",
    [{"mode": "sulk"}, {"error_status": 200}, {"fail_next": -1}, {"colour": "red"}, []],
    ids=["mode", "status", "negative", "unknown-field", "not-an-object"],
)
def test_an_unusable_behaviour_is_refused_and_changes_nothing(worker: SimulatedWorker, behaviour: object) -> None:
    worker.behave(unhealthy=True)

    assert worker.call("POST", "/sim/behaviour", json.dumps(behaviour).encode())[0] == 400
    assert worker.call("GET", "/health")[0] == 503


@pytest.mark.parametrize(("peer", "loopback"), [("127.0.0.1", True), ("::1", True), ("192.0.2.7", False)])
async def test_only_the_own_machine_may_steer(peer: str, *, loopback: bool) -> None:
    transport = Mock()
    transport.get_extra_info.return_value = (peer, 40_000)
    request = make_mocked_request("POST", "/sim/behaviour", transport=transport)

    assert from_loopback(request) == loopback


def test_steering_needs_the_right_method(worker: SimulatedWorker) -> None:
    assert worker.call("PUT", "/sim/behaviour", b"{}")[0] == 405
