"""The page of metrics says what the code exposes."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from extproc.admin.metrics import PrefixIndexGauges, ProcessGauges, TokenCacheGauges, WorkerGauges
from extproc.errors import Refusal
from extproc.fleet.discovery.base import FaultReason
from extproc.fleet.discovery.dns_answers import LookupResult
from extproc.fleet.health.prober import ProbeResult
from extproc.fleet.load.scraper import ScrapeResult
from extproc.policies.base import Reason
from extproc.server.base import CloseReason
from extproc.supervisor.process import Cause
from extproc.telemetry.metrics import DiscoveryMetrics, KvEventMetrics, Metrics, TokenMetrics
from extproc.tokens.backend import Reason as LoadReason
from tests.support.fleets import worker
from tests.support.service_state import FakeState, process, token_cache

PAGE = Path(__file__).parents[2] / "extproc" / "telemetry" / "README.md"


def exposed() -> Iterator[str]:
    """One table row for every metric, as the page must have it."""
    groups = (Metrics(), TokenMetrics(), DiscoveryMetrics(), KvEventMetrics())
    for metric in (metric for group in groups for metric in vars(group).values()):
        (family,) = metric.describe()
        yield row(family.name, family.type, metric._labelnames, family.documentation)
    state = FakeState(known=(worker(0),), process_rows=(process("router", 0),), cache=token_cache())
    for collector in (WorkerGauges(state), ProcessGauges(state), PrefixIndexGauges(state), TokenCacheGauges(state)):
        for family in collector.collect():
            yield row(family.name, family.type, family.samples[0].labels, family.documentation)


def row(name: str, kind: str, labels: object, meaning: str) -> str:
    shown = name + "_total" if kind == "counter" else name
    return f"| `{shown}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {meaning} |"  # type: ignore[attr-defined]


def table_rows(page: str, heading: str) -> list[str]:
    """Rows of the first table under a heading, without its head."""
    section = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("| `")]


def test_the_page_has_a_row_for_every_metric_and_no_other() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert table_rows(page, "Counters and histograms") + table_rows(page, "Gauges") == list(exposed())


def test_metric_names_are_unique() -> None:
    names = [line.split("`")[1].removesuffix("_total") for line in exposed()]
    assert len(set(names)) == len(names)


def reasons(kind: type[Refusal]) -> Iterator[str]:
    yield kind.reason
    for child in kind.__subclasses__():
        yield from reasons(child)


@pytest.mark.parametrize(
    ("metric", "values"),
    [
        ("extproc_requests_total", {"routed", "open", *reasons(Refusal)}),
        ("extproc_decisions_total", set(Reason)),
        ("extproc_hooks_total", {"ok", "refused", "failed", "timeout"}),
        ("extproc_shadow_decisions_total", {"same", "different"}),
        ("extproc_recorded_requests_total", {"written", "full", "no_room", "failed"}),
        ("extproc_connections_closed_total", set(CloseReason)),
        ("extproc_health_probes_total", set(get_args(ProbeResult))),
        ("extproc_load_scrapes_total", set(get_args(ScrapeResult))),
        ("extproc_process_restarts_total", set(Cause)),
        ("extproc_tls_reloads_total", {"ok", "failed"}),
        ("extproc_model_loads_total", {"fastokens", "tokenizers", "none", "unusable", *get_args(LoadReason)} - {""}),
        ("extproc_prefixes_off_total", {"no_boundary", "mismatch"}),
        ("extproc_prefix_verifications_total", {"ok", "mismatch"}),
        ("extproc_discovery_faults_total", set(get_args(FaultReason))),
        ("extproc_discovery_dns_lookups_total", set(get_args(LookupResult))),
        ("extproc_token_cache_lookups_total", {"0", "1", "hit", "miss"}),
    ],
)
def test_the_page_lists_the_values_of_closed_labels(metric: str, values: set[str]) -> None:
    rows = table_rows(PAGE.read_text(encoding="utf-8"), "Label values")
    (cells,) = [line.split("|") for line in rows if line.startswith(f"| `{metric}` ")]
    assert set(re.findall(r"`(\w+)`", cells[3])) == values
