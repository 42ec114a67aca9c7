import ipaddress

import pytest
from hypothesis import given, settings

from extproc.config.fleet import WorkerSpec
from extproc.config.workers import MAX_MODELS_OF_WORKER, MAX_WORKERS, find_worker_faults, read_workers, worker_address
from tests.support.settings import worker_lists


def faults_of(*items: object) -> list[str]:
    return [str(fault) for fault in read_workers(list(items))[1]]


def test_reads_a_list() -> None:
    workers, faults = read_workers(
        [{"address": "10.0.0.1:8000"}, {"address": "[fd00::1]:80", "id": "b", "models": ["m"], "draining": True}]
    )
    assert faults == []
    assert workers == (
        WorkerSpec(address="10.0.0.1:8000"),
        WorkerSpec(address="[fd00::1]:80", id="b", models=("m",), draining=True),
    )


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (None, "workers: must be a list, not nothing"),
        ({}, "workers: must be a list, not a mapping"),
        ([{}] * (MAX_WORKERS + 1), "workers: must have at most 1,024 entries, not 1,025"),
    ],
)
def test_refuses_what_is_no_list_of_bearable_length(value: object, fault: str) -> None:
    workers, faults = read_workers(value)
    assert (workers, [str(found) for found in faults]) == ((), [fault])


def test_takes_as_many_workers_as_allowed() -> None:
    value = [{"address": f"10.0.{n // 256}.{n % 256}:8000"} for n in range(MAX_WORKERS)]
    assert read_workers(value)[1] == []


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("", "is required: `IP:PORT`"),
        ("localhost:80", "must be `IP:PORT` with an IP address, not a name; is 'localhost:80'"),
        ("unix:/a", "must be `IP:PORT` with an IP address, not a name; is 'unix:/a'"),
        ("10.0.0.1", "must be `IP:PORT` with an IP address, not a name; is '10.0.0.1'"),
        ("::1:80", "must be `IP:PORT` with an IP address, not a name; is '::1:80'"),
        ("10.0.0.1:70000", "must be `IP:PORT` with an IP address, not a name; is '10.0.0.1:70000'"),
        ("10.0.0.1:0", "must be an address and a port that Envoy can connect to; is '10.0.0.1:0'"),
        ("0.0.0.0:80", "must be an address and a port that Envoy can connect to; is '0.0.0.0:80'"),
        ("[ff02::1]:80", "must be an address and a port that Envoy can connect to; is '[ff02::1]:80'"),
        ("[fe80::1%eth0]:80", "must be an address and a port that Envoy can connect to; is '[fe80::1%eth0]:80'"),
        ("10.0.0.1:080", "must be written `10.0.0.1:80`, as Envoy prints it; is '10.0.0.1:080'"),
        ("[FD00:0::1]:80", "must be written `[fd00::1]:80`, as Envoy prints it; is '[FD00:0::1]:80'"),
        ("[10.0.0.1]:80", "must be written `10.0.0.1:80`, as Envoy prints it; is '[10.0.0.1]:80'"),
    ],
)
def test_an_address_is_what_envoy_would_print(address: str, problem: str) -> None:
    assert faults_of({"address": address}) == [f"workers[0].address: {problem}"]


def test_addresses_and_names_are_unique() -> None:
    assert faults_of(
        {"address": "10.0.0.1:80"},
        {"address": "10.0.0.1:80", "id": "a"},
        {"address": "10.0.0.2:80", "id": "a"},
        {"address": "10.0.0.3:80", "id": "10.0.0.4:80"},
        {"address": "10.0.0.4:80"},
    ) == [
        "workers[1].address: is also that of workers[0]",
        "workers[2].id: is also that of workers[1]",
        "workers[4].address: is also the id of workers[3]",
    ]


@pytest.mark.parametrize("id_", ["a b", "a\u00e9", "a,b", "x" * 129])
def test_an_id_fits_logs_metrics_and_headers(id_: str) -> None:
    assert faults_of({"address": "10.0.0.1:80", "id": id_}) == [
        "workers[0].id: must be 1 to 128 letters, digits and `. _ : / -`"
    ]


def test_models_are_few_named_and_different() -> None:
    many = [str(n) for n in range(MAX_MODELS_OF_WORKER + 1)]
    assert faults_of(
        {"address": "10.0.0.1:80", "models": many},
        {"address": "10.0.0.2:80", "models": ["a", "", "a", "x" * 257]},
    ) == [
        "workers[0].models: must have at most 64 entries, not 65",
        "workers[1].models[1]: must be 1 to 256 characters long",
        "workers[1].models[3]: must be 1 to 256 characters long",
        "workers[1].models: names a model twice",
    ]


def test_faults_keep_the_index_of_the_file_past_unreadable_entries() -> None:
    assert faults_of(
        "10.0.0.1:80",
        {"adress": "10.0.0.1:80", "draining": "no"},
        {"address": "nowhere"},
    ) == [
        "workers[0]: must be a mapping with an `address`, not '10.0.0.1:80'",
        "workers[1].adress: unknown key - did you mean `address`?",
        "workers[1].draining: must be true or false, not 'no'",
        "workers[2].address: must be `IP:PORT` with an IP address, not a name; is 'nowhere'",
    ]


@given(worker_lists)
@settings(deadline=None)
def test_entries_made_in_code_are_checked_alike(workers: list[WorkerSpec]) -> None:
    assert find_worker_faults(tuple(workers)) == []
    doubled = (*workers, *workers)
    assert len(find_worker_faults(doubled)) >= len(workers)


def test_too_many_entries_made_in_code_are_one_fault() -> None:
    assert len(find_worker_faults((WorkerSpec(),) * (MAX_WORKERS + 1))) == 1


@pytest.mark.parametrize(
    ("ip", "port", "address"),
    [
        ("10.0.0.1", 80, "10.0.0.1:80"),
        ("FD00:0::1", 80, "[fd00::1]:80"),
        ("::ffff:10.0.0.1", 80, "[::ffff:10.0.0.1]:80"),
        ("10.0.0.1", 0, None),
        ("0.0.0.0", 80, None),
        ("::", 80, None),
        ("224.0.0.1", 80, None),
        ("ff02::1", 80, None),
        ("fe80::1%eth0", 80, None),
    ],
)
def test_an_address_of_numbers_is_written_as_envoy_prints_it(ip: str, port: int, address: str | None) -> None:
    assert worker_address(ipaddress.ip_address(ip), port) == address
    if address:
        assert faults_of({"address": address}) == []


def test_ranks_have_ids_of_their_own_that_nobody_else_may_have() -> None:
    ranked = {"address": "10.0.0.1:80", "id": "a", "data_parallel_size": 2}
    assert WorkerSpec(address="10.0.0.1:80", id="a", data_parallel_size=2).rank_ids == ("a/0", "a/1")
    assert WorkerSpec(address="10.0.0.1:80").rank_ids == ("10.0.0.1:80",)
    assert faults_of(ranked, {"address": "10.0.0.2:80", "id": "b", "data_parallel_size": 2}) == []
    taken = {"address": "10.0.0.2:80", "id": "a/1"}
    assert faults_of(ranked, taken) == ["workers[1].id: is also that of workers[0]"]
    assert faults_of(taken, ranked) == ["workers[1].data_parallel_size: needs the id a/1, also that of workers[0]"]


@pytest.mark.parametrize("size", [0, 65, "two", None])
def test_refuses_a_number_of_ranks_out_of_bounds(size: object) -> None:
    (fault,) = faults_of({"address": "10.0.0.1:80", "data_parallel_size": size})
    assert fault.startswith("workers[0].data_parallel_size: ")


def test_all_ranks_together_are_bounded_as_workers_are() -> None:
    full = [{"address": f"10.0.0.{n}:80", "data_parallel_size": 64} for n in range(16)]
    assert faults_of(*full) == []
    one_more = [*full, {"address": "10.0.1.1:80"}]
    assert faults_of(*one_more) == ["workers: has 1,025 data parallel ranks in all; there may be 1,024"]
    specs = tuple(WorkerSpec(address=f"10.0.0.{n}:80", data_parallel_size=64) for n in range(17))
    assert [fault.path for fault in find_worker_faults(specs)] == ["workers"]
