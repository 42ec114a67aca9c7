"""What ``/metrics`` serves: the metric files of all processes added up, and gauges read from shared memory.

Gauges are never written to metric files: a file outlives its process, and a dead process's gauge would go on being
reported. Shared memory knows the present at the moment of the scrape.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from extproc.admin.state import ServiceState
from extproc.fleet.worker import Worker
from extproc.shm.worker_table import WorkerRow

WORKER = ["worker", "address"]
# A router and the successor that starts beside it have one role and index; the slot tells them apart.
PROCESS = ["role", "index", "slot"]


def service_registry(*, state: ServiceState, metric_dir: Path) -> CollectorRegistry:
    """Return the registry of a whole service."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(MetricFiles(metric_dir))
    registry.register(WorkerGauges(state))
    registry.register(ProcessGauges(state))
    registry.register(TokenCacheGauges(state))
    registry.register(PrefixIndexGauges(state))
    return registry


WORKER_NUMBERS: tuple[tuple[str, str, Callable[[WorkerRow], float]], ...] = (
    (
        "extproc_worker_prefill_seconds",
        "Seconds of prompt computation expected to be ahead of a new request.",
        lambda row: row.prefill_secs,
    ),
    ("extproc_worker_decode_tokens", "Tokens that answers in flight may have.", lambda row: row.decode_tokens),
    (
        "extproc_worker_breaker_open",
        "1 while failed requests keep others away from the worker, else 0.",
        lambda row: row.outcome["open_until"] > 0,
    ),
    (
        "extproc_worker_cache_trust",
        "How well the worker's cache is known: 2 by its engine's events, 1 by what was sent there, 0 not at all.",
        lambda row: row.engine["trust"],
    ),
    (
        "extproc_worker_cache_precision",
        "How well predicted cached tokens agree with reported ones, 0 to 1; 0 also where none were compared.",
        lambda row: row.outcome["precision"],
    ),
    ("extproc_worker_engine_running", "Requests that the engine runs.", lambda row: row.engine["running"]),
    ("extproc_worker_engine_waiting", "Requests that wait in the engine.", lambda row: row.engine["waiting"]),
    (
        "extproc_worker_engine_kv_usage",
        "Share of the engine's KV blocks that running requests use.",
        lambda row: row.engine["kv_usage"],
    ),
    (
        "extproc_worker_engine_prefill_rate",
        "Prompt tokens a second that the engine computes, learned; 0: not known.",
        lambda row: row.engine["prefill_rate"],
    ),
)
"""Gauges of a worker that are read from its row: name, words, and where the number stands."""


class MetricFiles(Collector):
    """Counters and histograms, added up over the files of all processes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Iterator[Metric]:
        """Read and add up every file; one that a process has created but not yet sized has nothing to add."""
        files = [str(path) for path in sorted(self._directory.glob("*.db")) if path.stat().st_size]
        yield from MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]


class WorkerGauges(Collector):
    """The fleet."""

    def __init__(self, state: ServiceState) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """Read the fleet and the in-flight table."""
        in_flight = GaugeMetricFamily("extproc_worker_in_flight", "Requests in flight.", labels=WORKER)
        numbers = {name: GaugeMetricFamily(name, words, labels=WORKER) for name, words, _ in WORKER_NUMBERS}
        up = GaugeMetricFamily("extproc_worker_up", "1 when health probes say so, else 0.", labels=WORKER)
        state = GaugeMetricFamily(
            "extproc_worker_state", "1 for the state the worker is in, 0 for the other.", labels=[*WORKER, "state"]
        )
        totals = self._state.in_flight()
        # Of two that share their labels, while a server gets another number of ranks, the one that stays is shown.
        shown = {(worker.id, worker.address): worker for worker in sorted(self._state.workers(), key=_stays)}
        for labels, worker in sorted(shown.items()):
            in_flight.add_metric(labels, totals[worker.slot])
            row = self._state.worker_row(worker.slot)
            for name, _, number in WORKER_NUMBERS:
                numbers[name].add_metric(labels, number(row))
            up.add_metric(labels, worker.healthy)
            for name in ("active", "draining"):
                state.add_metric([*labels, name], worker.state == name)
        yield from (in_flight, up, state, *numbers.values())
        yield GaugeMetricFamily(
            "extproc_fleet_generation", "Generation of the published fleet.", value=self._state.fleet_generation
        )


def _stays(worker: Worker) -> bool:
    return worker.state == "active"


class ProcessGauges(Collector):
    """The processes."""

    def __init__(self, state: ServiceState) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """Read the process table."""
        up = GaugeMetricFamily("extproc_process_up", "1 when the process is ready, else 0.", labels=PROCESS)
        age = GaugeMetricFamily(
            "extproc_process_heartbeat_age_seconds", "Time since the process's event loop last ran.", labels=PROCESS
        )
        active = GaugeMetricFamily("extproc_streams_active", "ext_proc streams open now.", labels=PROCESS)
        total = CounterMetricFamily(
            "extproc_process_streams", "ext_proc streams opened since the process started.", labels=PROCESS
        )
        generation = GaugeMetricFamily(
            "extproc_process_fleet_generation", "Generation of the fleet that the process works with.", labels=PROCESS
        )
        for process in self._state.processes():
            labels = [process.role, str(process.index), str(process.slot)]
            up.add_metric(labels, process.ready)
            age.add_metric(labels, process.heartbeat_age_secs)
            if process.role == "router":
                active.add_metric(labels, process.streams_active)
                total.add_metric(labels, process.streams_total)
                generation.add_metric(labels, process.fleet_generation)
        yield from (up, age, active, total, generation)


class PrefixIndexGauges(Collector):
    """The prefix index."""

    def __init__(self, state: ServiceState) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """Read a part of the index."""
        index = self._state.prefix_index()
        yield GaugeMetricFamily(
            "extproc_prefix_index_capacity_blocks", "Room in the prefix index.", value=index.capacity_blocks
        )
        yield GaugeMetricFamily(
            "extproc_prefix_index_blocks",
            "Blocks of prompts that some worker is recorded to hold; of a large index an estimate.",
            value=index.blocks,
        )


class TokenCacheGauges(Collector):
    """The token cache, when there is one."""

    def __init__(self, state: ServiceState) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """Read the store."""
        cache = self._state.token_cache()
        if cache is None:
            return
        yield GaugeMetricFamily(
            "extproc_token_cache_capacity_bytes", "Room in the token cache.", value=cache.capacity_bytes
        )
        yield GaugeMetricFamily(
            "extproc_token_cache_used_bytes", "Room in use in the token cache.", value=cache.used_bytes
        )
        yield GaugeMetricFamily(
            "extproc_token_cache_entries",
            "Prompts and prefixes that can be found in the token cache; of a large one an estimate.",
            value=cache.rows,
        )
        yield CounterMetricFamily(
            "extproc_token_cache_evictions",
            "Chunks of the token cache taken back for newer prompts.",
            value=cache.evictions,
        )
