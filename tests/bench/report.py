"""The report on requests: a table of medians, and each bar with what was measured."""

from collections.abc import Callable, Iterable
from statistics import median

from tests.bench.rows import Row, at_least, at_most
from tests.bench.scenarios import SCENARIOS, Idle, Result

MB = 1e6

NATIVE_HEADERS_BAR_US = 50
NATIVE_BODY_BAR_US = 100
TRANSPORT_RATIO_BAR = 6
IDLE_BAR = 0.01
MEMORY_BAR_MB = 120


def print_table(results: list[Result]) -> None:
    """One line a set-up and body size."""
    titles = f"{'ours µs':>9}{'Envoy µs':>10}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'CPU ratio':>11}"
    print(f"\n{'set-up':<38}{'body':<8}{titles}")
    for body in dict.fromkeys(result.body for result in results):
        alone = _median(results, "envoy", body, lambda result: result.envoy)
        for scenario in SCENARIOS:
            row = [
                _median(results, scenario.key, body, value)
                for value in (
                    lambda result: result.ours,
                    lambda result: result.envoy,
                    lambda result: result.rate,
                    lambda result: result.p50,
                    lambda result: result.p99,
                )
            ]
            ours, envoy, rate, p50, p99 = row
            print(
                f"{scenario.name:<38}{body:<8}{ours:>9.0f}{envoy:>10.0f}{rate:>9.0f}{p50:>9.2f}{p99:>9.2f}"
                f"{(ours + envoy) / alone:>10.2f}x"
            )
    print("\nµs: CPU per request. CPU ratio: ours and Envoy's together, to Envoy alone on the same body.\n")


def bars(results: list[Result], idle: Idle) -> list[Row]:
    """Each bar of the project."""
    headers = _median(results, "native", "600 B", lambda result: result.ours)
    body = _median(results, "native-body", "600 B", lambda result: result.ours)
    ratio = _median(results, "grpcio-body", "600 B", lambda result: result.ours) / body
    headers_ratio = _median(results, "grpcio", "600 B", lambda result: result.ours) / headers
    memory = max(idle.router_bytes, *(result.router_bytes for result in results if result.scenario.transport)) / MB
    return [
        at_most("native, headers only, 600 B: CPU per request", headers, NATIVE_HEADERS_BAR_US),
        at_most("native, body parsed, 600 B: CPU per request", body, NATIVE_BODY_BAR_US),
        at_least("grpcio to native, headers only", headers_ratio, TRANSPORT_RATIO_BAR),
        at_least("grpcio to native, body parsed", ratio, TRANSPORT_RATIO_BAR),
        Row("idle service, share of a core", f"{idle.core_share:.2%}", f"< {IDLE_BAR:.0%}", idle.core_share < IDLE_BAR),
        Row("memory of the largest router", f"{memory:.0f} MB", f"< {MEMORY_BAR_MB} MB", memory < MEMORY_BAR_MB),
    ]


def _median(results: Iterable[Result], key: str, body: str, value: Callable[[Result], float]) -> float:
    return median(value(result) for result in results if result.scenario.key == key and result.body == body)
