"""The part of vLLM's ``/metrics`` that a router reads, under vLLM's names and labels."""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

TTFT_BUCKETS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
LATENCY_BUCKETS = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip
GAP_BUCKETS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
TOKEN_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
FinishReason = Literal["stop", "length", "abort", "error"]
PromptSource = Literal["local_compute", "local_cache_hit", "external_kv_transfer"]

_MAX_LORA_SERIES = 64


class EngineMetrics:
    """The metrics of one engine, in a registry of its own; ``rank`` is its label ``engine``.

    ``num_blocks`` are those of all ranks together, as vLLM tells them.
    """

    def __init__(self, *, model: str, block_size: int, num_blocks: int, prefix_caching: bool, rank: int = 0) -> None:
        self._registry = CollectorRegistry()
        self._rank = str(rank)
        self._model = model
        self._before_scrape: Callable[[], None] = lambda: None
        self.prompt_tokens = self._counter("prompt_tokens", "Number of prefill tokens processed.")
        self.generation_tokens = self._counter("generation_tokens", "Number of generation tokens processed.")
        self.prefix_cache_queries = self._counter("prefix_cache_queries", "Prefix cache queries, in tokens.")
        self.prefix_cache_hits = self._counter("prefix_cache_hits", "Prefix cache hits, in tokens.")
        self.preemptions = self._counter("num_preemptions", "Preemptions by the engine.")
        self.dropped_events = Counter(
            "sim:kv_event_batches_dropped",
            "Batches of KV-cache events that no subscriber was sent.",
            ["engine"],
            registry=self._registry,
        ).labels(self._rank)
        self.ttft = self._histogram("time_to_first_token_seconds", "Time to first token.", TTFT_BUCKETS)
        self.latency = self._histogram("e2e_request_latency_seconds", "End-to-end latency.", LATENCY_BUCKETS)
        self.queue_time = self._histogram("request_queue_time_seconds", "Time spent waiting.", LATENCY_BUCKETS)
        self.prefill_time = self._histogram("request_prefill_time_seconds", "Time spent in prefill.", LATENCY_BUCKETS)
        self.prefill_computed = self._histogram(
            "request_prefill_kv_computed_tokens", "Prefill tokens that were computed, not cached.", TOKEN_BUCKETS
        )
        labels = [self._rank, model]
        self.token_gaps = GapHistogram("inter_token_latency_seconds", "Time between two tokens.", labels=labels)
        self._registry.register(self.token_gaps)
        self.request_prompt = self._histogram("request_prompt_tokens", "Prefill tokens of a request.", TOKEN_BUCKETS)
        self.request_generation = self._histogram(
            "request_generation_tokens", "Generation tokens of a request.", TOKEN_BUCKETS
        )
        success = Counter(
            "vllm:request_success",
            "Successfully processed requests.",
            ["engine", "model_name", "finished_reason"],
            registry=self._registry,
        )
        self.success: dict[FinishReason, Counter] = {
            reason: success.labels(self._rank, self._model, reason) for reason in get_args(FinishReason)
        }
        by_source = Counter(
            "vllm:prompt_tokens_by_source",
            "Prompt tokens by source.",
            ["engine", "model_name", "source"],
            registry=self._registry,
        )
        self.prompt_tokens_by_source: dict[PromptSource, Counter] = {
            source: by_source.labels(self._rank, self._model, source) for source in get_args(PromptSource)
        }
        self._add_cache_config(block_size=block_size, num_blocks=num_blocks, prefix_caching=prefix_caching)

    def add_gauges(
        self, *, running: Callable[[], float], waiting: Callable[[], float], kv_usage: Callable[[], float]
    ) -> None:
        """Read the three load gauges from the engine at each scrape."""
        self._gauge("num_requests_running", "Requests in model execution batches.").set_function(running)
        self._gauge("num_requests_waiting", "Requests waiting to be processed.").set_function(waiting)
        self._gauge("kv_cache_usage_perc", "KV-cache usage; 1 means 100 percent.").set_function(kv_usage)
        by_reason = Gauge(
            "vllm:num_requests_waiting_by_reason",
            "Requests waiting, by reason.",
            ["engine", "model_name", "reason"],
            registry=self._registry,
        )
        by_reason.labels(self._rank, self._model, "capacity").set_function(waiting)
        by_reason.labels(self._rank, self._model, "deferred").set(0)

    def before_scrape(self, update: Callable[[], None]) -> None:
        """Let ``update`` be called before each exposition."""
        self._before_scrape = update

    def register(self, collector: Collector) -> None:
        """Show the metrics of a collector too."""
        self._registry.register(collector)

    def collect(self) -> Iterator[Metric]:
        """Everything as it is now."""
        self._before_scrape()
        yield from self._registry.collect()

    def _add_cache_config(self, *, block_size: int, num_blocks: int, prefix_caching: bool) -> None:
        labels = {
            "engine": self._rank,
            "block_size": str(block_size),
            "effective_attention_block_size": str(block_size),
            "hash_block_size": str(block_size),
            "num_gpu_blocks": str(num_blocks),
            "kv_cache_size_tokens": str(block_size * num_blocks),
            "cache_dtype": "auto",
            "enable_prefix_caching": str(prefix_caching),
        }
        info = Gauge(
            "vllm:cache_config_info", "Information of the cache configuration.", list(labels), registry=self._registry
        )
        info.labels(**labels).set(1)

    def _counter(self, name: str, text: str) -> Counter:
        family = Counter(f"vllm:{name}", text, ["engine", "model_name"], registry=self._registry)
        return family.labels(self._rank, self._model)

    def _gauge(self, name: str, text: str) -> Gauge:
        family = Gauge(f"vllm:{name}", text, ["engine", "model_name"], registry=self._registry)
        return family.labels(self._rank, self._model)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        family = Histogram(f"vllm:{name}", text, ["engine", "model_name"], buckets=buckets, registry=self._registry)
        return family.labels(self._rank, self._model)


class WorkerMetrics(Collector):
    """The metrics of all engines of one worker on one page."""

    def __init__(self, engines: Sequence[EngineMetrics]) -> None:
        self._engines = engines

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterator[Metric]:
        """Every family once, with the series of all engines."""
        families: dict[str, Metric] = {}
        for engine in self._engines:
            for family in engine.collect():
                known = families.setdefault(family.name, family)
                if known is not family:
                    known.samples += family.samples
        yield from families.values()


class GapHistogram(Collector):
    """A histogram that takes many equal values at once, at the price of one."""

    def __init__(self, name: str, text: str, *, labels: Sequence[str]) -> None:
        self._name = f"vllm:{name}"
        self._text = text
        self._labels = labels
        self._counts = [0] * (len(GAP_BUCKETS) + 1)
        self._sum = 0.0

    def observe(self, secs: float, *, count: int) -> None:
        """Take ``count`` gaps of ``secs`` each."""
        self._counts[bisect_left(GAP_BUCKETS, secs)] += count
        self._sum += secs * count

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """What ``prometheus_client`` asks at each scrape."""
        family = HistogramMetricFamily(self._name, self._text, labels=["engine", "model_name"])
        bounds = (*map(str, map(float, GAP_BUCKETS)), "+Inf")
        buckets = [(bound, float(count)) for bound, count in zip(bounds, accumulate(self._counts), strict=True)]
        family.add_metric(self._labels, buckets=buckets, sum_value=self._sum)
        yield family


class LoraInfo(Collector):
    """Which adapters run and wait. Each combination is a series whose value is when it was last true, as in vLLM.

    The newest series is the truth. Of the others the latest are kept.
    """

    def __init__(self, *, max_loras: int) -> None:
        self._max_loras = str(max_loras)
        self._seen: OrderedDict[tuple[str, str], float] = OrderedDict({("", ""): 0.0})

    def show(self, running: Sequence[str], waiting: Sequence[str], *, now: float) -> None:
        """Note what is true ``now``, in seconds since 1970."""
        key = ",".join(running), ",".join(waiting)
        self._seen[key] = now
        self._seen.move_to_end(key)
        if len(self._seen) > _MAX_LORA_SERIES:
            self._seen.popitem(last=False)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What ``prometheus_client`` asks at each scrape."""
        labels = ["max_lora", "running_lora_adapters", "waiting_lora_adapters"]
        family = GaugeMetricFamily("vllm:lora_requests_info", "Running stats on lora requests.", labels=labels)
        for (running, waiting), value in self._seen.items():
            family.add_metric([self._max_loras, running, waiting], value)
        yield family
