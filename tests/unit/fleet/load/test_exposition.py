from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from extproc.fleet.load.engine_load import EngineLoad, LoraState
from extproc.fleet.load.exposition import (
    MAX_EXPOSITION_BYTES,
    MAX_SERIES,
    Exposition,
    ExpositionError,
    read_engine_load,
)

GOLDEN = Path(__file__).parent / "golden"
RUNNING = b"vllm:num_requests_running 1\n"

COUNTERS = {
    "prefix_queries": ("prefix_cache_queries_total", "prefix_cache_queries",
                       "gpu_prefix_cache_queries_total", "gpu_prefix_cache_queries"),
    "prefix_hits": ("prefix_cache_hits_total", "prefix_cache_hits",
                    "gpu_prefix_cache_hits_total", "gpu_prefix_cache_hits"),
    "prefill_requests": ("request_prefill_time_seconds_count",),
    "prefill_secs": ("request_prefill_time_seconds_sum",),
    "prefill_tokens": ("request_prefill_kv_computed_tokens_sum",),
    "decode_tokens": ("inter_token_latency_seconds_count", "time_per_output_token_seconds_count"),
    "decode_secs": ("inter_token_latency_seconds_sum", "time_per_output_token_seconds_sum"),
    "queue_requests": ("request_queue_time_seconds_count",),
    "queue_secs": ("request_queue_time_seconds_sum",),
    "first_tokens": ("time_to_first_token_seconds_count",),
    "first_token_secs": ("time_to_first_token_seconds_sum",),
}  # fmt: skip
SUMMED = [(name, field) for field, names in COUNTERS.items() for name in names]


def golden(name: str) -> EngineLoad:
    return read_engine_load((GOLDEN / f"{name}.txt").read_bytes())


def test_reads_a_busy_vllm() -> None:
    """Recorded from vLLM 0.32: eight places, two adapters at a time, twelve prompts of 5,700 tokens at once."""
    assert golden("vllm_0_32_busy") == EngineLoad(
        running=5,
        waiting=7,
        kv_usage=0.32613045218087233,
        block_size=32,
        num_gpu_blocks=2500,
        lora=LoraState(max_adapters=2, running=("ad1", "ad2"), waiting=("ad1", "ad2")),
        prefix_queries=33100.0,
        prefix_hits=4224.0,
        computed_tokens=23109.0,
        prefill_requests=3.0,
        prefill_secs=0.1478799809992779,
        prefill_tokens=1498.0,
        decode_tokens=102.0,
        decode_secs=4.156428068998139,
        queue_requests=3.0,
        queue_secs=7.012500100245234e-05,
        first_tokens=7.0,
        first_token_secs=7.595938682556152,
    )


def test_the_newest_set_of_adapters_is_the_true_one() -> None:
    """The same server when everything is answered: six sets, and the empty one, which comes first, is the newest."""
    load = golden("vllm_0_32_after")
    assert load.lora == LoraState(max_adapters=2, running=(), waiting=())
    assert (load.running, load.waiting, load.kv_usage) == (0, 0, 0.0)
    assert load.prefix_queries == load.prefix_hits + load.computed_tokens == 73555.0  # type: ignore[operator]


@pytest.mark.parametrize(("name", "field"), SUMMED)
def test_counters_are_summed_over_ranks(name: str, field: str) -> None:
    page = f'vllm:{name}{{engine="0",model_name="m"}} 1.5e+02\nvllm:{name}{{model_name="m",engine="1"}} 7\n'
    load = read_engine_load(RUNNING + page.encode())
    assert load == msgspec.structs.replace(EngineLoad(running=1), **{field: 157.0})


@pytest.mark.parametrize(("field", "names"), [(field, names) for field, names in COUNTERS.items() if len(names) > 1])
def test_of_an_old_and_a_new_name_the_new_one_counts(field: str, names: tuple[str, ...]) -> None:
    page = "".join(f'vllm:{name}{{engine="0"}} {value}\n' for value, name in enumerate(names, start=1))
    lines = page.splitlines(keepends=True)
    for order in (lines, lines[::-1]):
        assert getattr(read_engine_load(RUNNING + "".join(order).encode()), field) == 1.0


def test_the_state_is_over_all_ranks() -> None:
    page = b"".join(
        b'vllm:num_requests_running{engine="%d"} %d\nvllm:num_requests_waiting{engine="%d"} %d\n'
        b'vllm:kv_cache_usage_perc{engine="%d"} 0.%d\n'
        b'vllm:cache_config_info{engine="%d",block_size="16",num_gpu_blocks="4000"} 1.0\n'
        % (rank, rank + 2, rank, 10 * rank, rank, 5 * rank, rank)
        for rank in range(3)
    )
    load = read_engine_load(page)
    assert (load.running, load.waiting, load.block_size) == (9, 30, 16)
    assert load.kv_usage == pytest.approx((0.0 + 0.5 + 0.1) / 3)
    assert load.num_gpu_blocks == 4000  # every rank tells of all blocks


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("vllm:num_requests_waiting 12", "waiting", 12),
        ("vllm:num_requests_waiting\t12", "waiting", 12),
        ("vllm:num_requests_waiting 12 1700000000000", "waiting", 12),
        ("vllm:num_requests_waiting{} 12", "waiting", 12),
        ('vllm:num_requests_waiting{model_name="a } b{\\"\\\\",} 12', "waiting", 12),
        ('vllm:num_requests_waiting{model_name="m"}12', "waiting", 12),
        ("vllm:num_requests_waiting -3", "waiting", 0),
        ("vllm:num_requests_waiting 1e1", "waiting", 10),
        ("vllm:gpu_cache_usage_perc 0.5", "kv_usage", 0.5),
        ("vllm:kv_cache_usage_perc 1.01", "kv_usage", 1.0),
        ("vllm:kv_cache_usage_perc -1", "kv_usage", 0.0),
        ('vllm:prompt_tokens_by_source_total{source="local_compute"} 5', "computed_tokens", 5.0),
        ('vllm:prompt_tokens_by_source{source="local_compute"} 5', "computed_tokens", 5.0),
        ('vllm:prompt_tokens_by_source_total{source="local_cache_hit"} 5', "computed_tokens", None),
        ('vllm:prefix_cache_queries_total{a="b"} 5 # {trace_id="x"} 9 1.5', "prefix_queries", 5.0),
        ('vllm:cache_config_info{block_size="None",num_gpu_blocks="7"} 1', "num_gpu_blocks", 7),
        ('vllm:cache_config_info{block_size="None"} 1', "block_size", 0),
        ('vllm:cache_config_info{block_size="16.5"} 1', "block_size", 0),
        ('vllm:cache_config_info{block_size="9999999999999999"} 1', "block_size", 0),
    ],
)
def test_reads_every_way_to_write_a_line(line: str, field: str, value: object) -> None:
    for page in (RUNNING.decode() + line + "\n", line + "\n" + RUNNING.decode(), RUNNING.decode() + line):
        assert getattr(read_engine_load(page.encode()), field) == value


@pytest.mark.parametrize("written", ["NaN", "+Inf", "-Inf", "inf", "1e16", "-1e16"])
def test_values_that_are_no_numbers_or_too_large_are_absent(written: str) -> None:
    page = f'vllm:prefix_cache_hits{{engine="0"}} {written}\nvllm:kv_cache_usage_perc {written}\n'
    assert read_engine_load(RUNNING + page.encode()) == EngineLoad(running=1)
    both = page + 'vllm:prefix_cache_hits{engine="1"} 4\nvllm:gpu_cache_usage_perc 0.5\n'
    assert read_engine_load(RUNNING + both.encode()) == EngineLoad(running=1, prefix_hits=4.0, kv_usage=0.5)


@pytest.mark.parametrize(
    ("labels", "state"),
    [
        (
            'max_lora="4",running_lora_adapters="a,b",waiting_lora_adapters=""',
            LoraState(max_adapters=4, running=("a", "b"), waiting=()),
        ),
        (
            'waiting_lora_adapters="x\\"y\\\\z\\n, ü",running_lora_adapters="",max_lora="1"',
            LoraState(max_adapters=1, running=(), waiting=('x"y\\z\n', " ü")),
        ),
        ("", LoraState(max_adapters=0, running=(), waiting=())),
    ],
)
def test_reads_the_adapters(labels: str, state: LoraState) -> None:
    old = 'vllm:lora_requests_info{max_lora="9"} 1.6e9\n'
    page = f"{old}vllm:lora_requests_info{{{labels}}} 1.7e+09\n{old}"
    assert read_engine_load(RUNNING + page.encode()).lora == state


def test_without_a_series_of_adapters_there_is_no_state_of_them() -> None:
    page = b"# HELP vllm:lora_requests_info Running stats.\n# TYPE vllm:lora_requests_info gauge\n"
    assert read_engine_load(RUNNING + page).lora is None


@pytest.mark.parametrize(
    "page",
    [
        b"",
        b"<html><body>not found</body></html>",
        b"http_requests_total 5\n",
        b"vllm:num_requests_running_created 5\n",
        b"x vllm:num_requests_running 5\n",
        b"# vllm:num_requests_running 5\n",
        b"vllm:num_requests_running NaN\n",
        b"vllm:num_requests_running\n",
    ],
)
def test_a_page_without_running_requests_is_not_metrics_of_vllm(page: bytes) -> None:
    with pytest.raises(ExpositionError, match="there is no vllm:num_requests_running"):
        read_engine_load(page)


@pytest.mark.parametrize(
    "line",
    [
        b"vllm:num_requests_waiting ",
        b"vllm:num_requests_waiting {",
        b'vllm:num_requests_waiting{engine="0} 5',
        b'vllm:num_requests_waiting{engine="0"',
        b'vllm:num_requests_waiting{engine="0"}',
        b"vllm:num_requests_waiting five",
        b"vllm:num_requests_waiting 1_000",
        b"vllm:num_requests_waiting 0x10",
        "vllm:num_requests_waiting ٣".encode(),
        b"vllm:cache_config_info{block_size=16} 1",
        b'vllm:cache_config_info{="16"} 1',
        b'vllm:cache_config_info{a="1"b="2"} 1',
    ],
)
def test_a_wanted_line_that_is_broken_is_an_error(line: bytes) -> None:
    with pytest.raises(ExpositionError, match="not"):
        read_engine_load(RUNNING + line)


def test_sizes_are_bounded() -> None:
    page = RUNNING + b"#" * (MAX_EXPOSITION_BYTES - len(RUNNING))
    assert read_engine_load(page) == EngineLoad(running=1)
    with pytest.raises(ExpositionError, match="larger than"):
        read_engine_load(page + b"#")
    series = b"vllm:lora_requests_info{} 1\n" * (MAX_SERIES - 1)
    assert read_engine_load(RUNNING + series).lora is not None
    with pytest.raises(ExpositionError, match="more than"):
        read_engine_load(RUNNING + series + RUNNING)


FRAGMENTS = st.sampled_from([
    b"\n", b"vllm:", b"num_requests_running", b"cache_config_info", b"lora_requests_info", b"{", b"}", b'"', b"\\",
    b"=", b",", b" ", b"1", b"NaN", b'max_lora="', b"prompt_tokens_by_source_total", b"\nvllm:num_requests_running 1\n",
])  # fmt: skip


@given(st.one_of(st.binary(), st.lists(FRAGMENTS | st.binary(max_size=3)).map(b"".join)))
def test_whatever_the_bytes_only_the_documented_error_is_raised(page: bytes) -> None:
    for text in (page, RUNNING + page):
        try:
            load = read_engine_load(text)
        except ExpositionError:
            continue
        assert load.running >= 0
        assert 0 <= load.kv_usage <= 1


class Sample(NamedTuple):
    name: str
    labels: dict[str, str]
    value: float


TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
VALUES = st.one_of(
    st.integers(0, 100_000).map(float),
    st.floats(-1e6, 1e12),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e300, 1.7e9]),
)
LABELS = st.dictionaries(
    st.sampled_from([
        "engine", "model_name", "source", "block_size", "num_gpu_blocks", "max_lora", "running_lora_adapters",
        "waiting_lora_adapters", "_x",
    ]),
    TEXTS | st.sampled_from(["0", "1", "16", "None", "local_compute", "a,b", 'x"\\,y']),
)  # fmt: skip
NAMES = st.sampled_from(
    [name for name, _ in SUMMED]
    + ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "gpu_cache_usage_perc",
       "cache_config_info", "lora_requests_info", "prompt_tokens_by_source_total", "prefix_cache_queries_created",
       "num_requests_waiting_by_reason", "inter_token_latency_seconds_bucket"]
).map("vllm:{}".format)  # fmt: skip
RUNNING_SERIES = st.lists(st.builds(Sample, st.just("vllm:num_requests_running"), LABELS, VALUES), max_size=2)
SAMPLES = st.builds(
    list.__add__, RUNNING_SERIES, st.lists(st.builds(Sample, NAMES, LABELS, VALUES), max_size=12)
).flatmap(st.permutations)


def write(samples: Sequence[Sample], formats: Sequence[str]) -> str:
    lines = ["# HELP vllm:x {} y", "# TYPE vllm:x counter", ""]
    for sample, form in zip(samples, formats, strict=True):
        escaped = {
            name: value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
            for name, value in sample.labels.items()
        }
        labels = ",".join(f'{name}="{value}"' for name, value in escaped.items())
        lines.append(f"{sample.name}{'{' + labels + '}' if labels else ''} {form.format(sample.value)}")
    return "\n".join(lines) + "\n"


def reference(page: str) -> EngineLoad | None:
    """The same by ``prometheus_client``'s parser, said as plainly as can be."""
    parsed = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    usable = [sample for sample in parsed if isfinite(sample.value) and abs(sample.value) <= 1e15]

    def series(*names: str) -> list[float]:
        found = ([sample.value for sample in usable if sample.name == f"vllm:{name}"] for name in names)
        return next((values for values in found if values), [])

    def number(text: str) -> int:
        return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else 0

    def labels(name: str, label: str) -> list[str]:
        return [sample.labels.get(label, "") for sample in usable if sample.name == f"vllm:{name}"]

    running = series("num_requests_running")
    if not running:
        return None
    usage = series("kv_cache_usage_perc", "gpu_cache_usage_perc") or [0.0]
    computed = [
        sample.value
        for sample in usable
        if sample.name == "vllm:prompt_tokens_by_source_total" and sample.labels.get("source") == "local_compute"
    ]
    adapters = [sample for sample in usable if sample.name == "vllm:lora_requests_info"]
    newest = max(reversed(adapters), key=lambda sample: sample.value) if adapters else None
    return EngineLoad(
        running=round(max(0.0, sum(running))),
        waiting=round(max(0.0, sum(series("num_requests_waiting")))),
        kv_usage=min(1.0, max(0.0, sum(usage) / len(usage))),
        block_size=max(map(number, labels("cache_config_info", "block_size")), default=0),
        num_gpu_blocks=max(map(number, labels("cache_config_info", "num_gpu_blocks")), default=0),
        lora=newest
        and LoraState(
            max_adapters=number(newest.labels.get("max_lora", "")),
            running=tuple(filter(None, newest.labels.get("running_lora_adapters", "").split(","))),
            waiting=tuple(filter(None, newest.labels.get("waiting_lora_adapters", "").split(","))),
        ),
        computed_tokens=sum(computed) if computed else None,
        **{field: sum(series(*names)) if series(*names) else None for field, names in COUNTERS.items()},
    )


@given(SAMPLES, st.data())
def test_says_what_a_general_parser_says(samples: list[Sample], data: st.DataObject) -> None:
    forms = st.sampled_from(["{!r}", "{:.20g}", "{:E}", "{!r} 1700000000000"])
    formats = data.draw(st.lists(forms, min_size=len(samples), max_size=len(samples)))
    page = write(samples, formats)
    expected = reference(page)
    if expected is None:
        with pytest.raises(ExpositionError, match="there is no"):
            read_engine_load(page.encode())
    else:
        assert read_engine_load(page.encode()) == expected


def ranked_page(ranks: int) -> bytes:
    """A page on which every number of a rank is its own."""
    lines = []
    for rank in range(ranks):
        lines += [
            f'num_requests_running{{engine="{rank}",model_name="m"}} {rank + 1}',
            f'num_requests_waiting{{model_name="m",engine="{rank}"}} {10 + rank}',
            f'kv_cache_usage_perc{{engine="{rank}"}} 0.{rank + 1}',
            f'cache_config_info{{engine="{rank}",block_size="16",num_gpu_blocks="{100 * ranks}"}} 1.0',
            f'prompt_tokens_by_source_total{{engine="{rank}",source="local_compute"}} {1000 + rank}',
            *[f'{names[0]}{{engine="{rank}"}} {100 + rank}' for names in COUNTERS.values()],
        ]
    lines += ['lora_requests_info{max_lora="2",running_lora_adapters="ad",waiting_lora_adapters=""} 5']
    return "".join(f"vllm:{line}\n" for line in lines).encode()


def test_a_rank_has_its_own_series_and_its_share_of_the_blocks() -> None:
    page = Exposition(ranked_page(3))
    for rank in range(3):
        assert page.load(rank=rank, ranks=3) == EngineLoad(
            running=rank + 1,
            waiting=10 + rank,
            kv_usage=float(f"0.{rank + 1}"),
            block_size=16,
            num_gpu_blocks=100,
            lora=LoraState(max_adapters=2, running=("ad",), waiting=()),
            computed_tokens=1000.0 + rank,
            **dict.fromkeys(COUNTERS, 100.0 + rank),
        )
    whole = page.load()
    assert (whole.running, whole.num_gpu_blocks, whole.prefix_hits) == (6, 300, 303.0)


def test_a_server_with_one_rank_may_call_it_as_it_likes() -> None:
    """As each server does where ranks are servers of their own."""
    page = Exposition(b'vllm:num_requests_running{engine="5"} 2\nvllm:num_requests_waiting{engine="5"} 1\n')
    assert page.load() == EngineLoad(running=2, waiting=1)


@pytest.mark.parametrize("label", [b"", b'{engine="0"}', b'{engine="10"}', b'{engines="1"}'])
def test_a_rank_of_which_a_page_does_not_tell_has_no_load(label: bytes) -> None:
    page = Exposition(b"vllm:num_requests_running" + label + b" 3\n")
    with pytest.raises(ExpositionError, match='no vllm:num_requests_running with engine="1"'):
        page.load(rank=1, ranks=2)


def test_what_is_told_of_all_ranks_together_is_no_number_of_one() -> None:
    page = Exposition(b'vllm:num_requests_running{engine="1"} 3\nvllm:prefix_cache_hits_total 9\n')
    assert page.load(rank=1, ranks=2) == EngineLoad(running=3)


@given(st.binary(max_size=200))
def test_a_page_of_ranks_is_read_or_refused(noise: bytes) -> None:
    page = ranked_page(2) + b"vllm:num_requests_waiting" + noise + b"\n"
    try:
        load = Exposition(page).load(rank=1, ranks=2)
    except ExpositionError:
        return
    assert load.running >= 0
