from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import Sample

from extproc.telemetry.tally import Tally, TallyHistogram


def samples(registry: CollectorRegistry) -> dict[str, float]:
    def key(sample: Sample) -> str:
        return sample.name + (f"[{sample.labels['le']}]" if "le" in sample.labels else "")

    return {
        key(sample): sample.value
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_counts_are_written_once() -> None:
    registry = CollectorRegistry()
    tally = Tally(Counter("things", "Things.", registry=registry))
    tally.inc()
    tally.inc()
    assert samples(registry) == {"things_total": 0}
    tally.flush()
    tally.flush()
    assert samples(registry) == {"things_total": 2}


def test_observations_fall_into_the_buckets_a_plain_histogram_puts_them_in() -> None:
    registry = CollectorRegistry()
    histogram = TallyHistogram("time", "Time.", buckets=(1.0, 2.0), registry=registry)
    for amount in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(amount)
    histogram.flush()
    histogram.flush()
    assert samples(registry) == {
        "time_bucket[1.0]": 2,
        "time_bucket[2.0]": 3,
        "time_bucket[+Inf]": 4,
        "time_count": 4,
        "time_sum": 12,
    }
