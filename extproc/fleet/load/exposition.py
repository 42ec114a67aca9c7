"""Reads an engine's load from the text of its ``/metrics``.

vLLM's page has 50 to 60 kB in 700 lines, nearly all of them buckets of histograms. Only the lines of the few series
that are wanted are looked at, which takes a fiftieth of the time of ``prometheus_client``'s parser.

Names have changed over vLLM's versions, and versions in between have the old and the new ones, so of the names of one
thing the first that has a value counts. Labels may come in any order. Values that are not finite, or too large to be
true, are taken as absent.
"""

import re
from collections.abc import Iterator, Sequence

import msgspec

from extproc.fleet.load.engine_load import EngineLoad, LoraState

MAX_EXPOSITION_BYTES = 4 << 20
MAX_SERIES = 50_000
MAX_VALUE = 1e15
MAX_DIGITS = 15

_RUNNING = (b"num_requests_running",)
_WAITING = (b"num_requests_waiting",)
_KV_USAGE = (b"kv_cache_usage_perc", b"gpu_cache_usage_perc")
_CACHE_CONFIG = b"cache_config_info"
_LORA = b"lora_requests_info"
_OF_SERVERS = frozenset({_CACHE_CONFIG, _LORA})
"""What a server with ranks may tell of all of them together; of anything else its sum says nothing of a rank."""
_PROMPT_TOKENS = (b"prompt_tokens_by_source_total", b"prompt_tokens_by_source")

_COUNTERS: dict[str, tuple[bytes, ...]] = {
    "prefix_queries": (
        b"prefix_cache_queries_total",
        b"prefix_cache_queries",
        b"gpu_prefix_cache_queries_total",
        b"gpu_prefix_cache_queries",
    ),
    "prefix_hits": (
        b"prefix_cache_hits_total",
        b"prefix_cache_hits",
        b"gpu_prefix_cache_hits_total",
        b"gpu_prefix_cache_hits",
    ),
    "prefill_requests": (b"request_prefill_time_seconds_count",),
    "prefill_secs": (b"request_prefill_time_seconds_sum",),
    "prefill_tokens": (b"request_prefill_kv_computed_tokens_sum",),
    "decode_tokens": (b"inter_token_latency_seconds_count", b"time_per_output_token_seconds_count"),
    "decode_secs": (b"inter_token_latency_seconds_sum", b"time_per_output_token_seconds_sum"),
    "queue_requests": (b"request_queue_time_seconds_count",),
    "queue_secs": (b"request_queue_time_seconds_sum",),
    "first_tokens": (b"time_to_first_token_seconds_count",),
    "first_token_secs": (b"time_to_first_token_seconds_sum",),
}

_WANTED = (
    *_RUNNING, *_WAITING, *_KV_USAGE, _CACHE_CONFIG, _LORA, *_PROMPT_TOKENS,
    *(name for names in _COUNTERS.values() for name in names),
)  # fmt: skip

# A line that is wanted: its name and what follows, which keeps a name from matching the start of a longer one.
_LINE = re.compile(rb"\nvllm:(" + b"|".join(map(re.escape, _WANTED)) + rb")([{ \t][^\n]*)")

# What follows a name: labels, a value, and a time stamp or an exemplar that nobody wants.
_SAMPLE = re.compile(rb'[ \t]*(?:\{((?:[^"}]++|"(?:[^"\\]++|\\.)*+")*+)\})?[ \t]*([^ \t{}]+)(?:[ \t].*)?')
_LABEL = re.compile(rb'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]++|\\.)*+)"[ \t]*(?:,|\Z)')
_LABELS = re.compile(rb"(?:" + _LABEL.pattern + rb")*+[ \t]*")
_ESCAPE = re.compile(r'\\([\\"n])')

_Lines = dict[bytes, list[bytes]]


class ExpositionError(ValueError):
    """The text is not metrics of vLLM, or too large."""


class Exposition:
    """A page of metrics, read once for all who are told of on it.

    Raises :class:`ExpositionError`, and nothing else, when it is larger than ``MAX_EXPOSITION_BYTES``, or has more than
    ``MAX_SERIES`` wanted lines.
    """

    def __init__(self, text: bytes) -> None:
        self._lines = _wanted_lines(text)
        self._by_rank: dict[bytes, _Lines] | None = None

    def load(self, *, rank: int = 0, ranks: int = 1) -> EngineLoad:
        """Return the load of one rank of a server, or, when it has one only, of all engines on the page together.

        A rank's series are those whose label ``engine`` is its number, and those of the whole server, which have no
        such label: there are none but of the cache and of adapters. Raises :class:`ExpositionError` when a line cannot
        be understood, or none tells of running requests.
        """
        if ranks == 1:
            return _load(self._lines)
        load = _load(self._of_rank(rank), missing=f' with engine="{rank}": has the server fewer ranks?')
        return msgspec.structs.replace(load, num_gpu_blocks=load.num_gpu_blocks // ranks)

    def _of_rank(self, rank: int) -> _Lines:
        if self._by_rank is None:
            self._by_rank = _split_by_rank(self._lines)
        whole = {name: lines for name, lines in self._by_rank.get(b"", {}).items() if name in _OF_SERVERS}
        return whole | self._by_rank.get(b"%d" % rank, {})


def read_engine_load(text: bytes) -> EngineLoad:
    """Return the load that a page tells of, all engines on it together; raises :class:`ExpositionError`."""
    return Exposition(text).load()


def _split_by_rank(lines: _Lines) -> dict[bytes, _Lines]:
    by_rank: dict[bytes, _Lines] = {}
    for name, rests in lines.items():
        for rest in rests:
            engine = _labels(_sample(rest)[0]).get(b"engine", b"")
            by_rank.setdefault(engine, {}).setdefault(name, []).append(rest)
    return by_rank


def _load(lines: _Lines, *, missing: str = "") -> EngineLoad:
    running = _total(lines, _RUNNING)
    if running is None:
        raise ExpositionError(f"there is no vllm:num_requests_running{missing}")
    usage = _values(lines, _KV_USAGE)
    block_size, num_gpu_blocks = _cache_config(lines.get(_CACHE_CONFIG, ()))
    return EngineLoad(
        running=_count(running),
        waiting=_count(_total(lines, _WAITING) or 0.0),
        kv_usage=min(1.0, max(0.0, sum(usage) / len(usage))) if usage else 0.0,
        block_size=block_size,
        num_gpu_blocks=num_gpu_blocks,
        lora=_lora(lines.get(_LORA, ())),
        computed_tokens=_computed_tokens(lines),
        **{field: _total(lines, names) for field, names in _COUNTERS.items()},
    )


def _wanted_lines(text: bytes) -> _Lines:
    """What follows the name on every line that is wanted, by name."""
    if len(text) > MAX_EXPOSITION_BYTES:
        raise ExpositionError(f"larger than {MAX_EXPOSITION_BYTES:,} bytes")
    found = _LINE.findall(b"\n" + text)
    if len(found) > MAX_SERIES:
        raise ExpositionError(f"more than {MAX_SERIES:,} series")
    lines: _Lines = {}
    for name, rest in found:
        lines.setdefault(name, []).append(rest)
    return lines


def _values(lines: _Lines, names: Sequence[bytes]) -> list[float]:
    """The values of all series of the first name that has any."""
    for name in names:
        values = [value for _, value in _samples(lines.get(name, ()))]
        if values:
            return values
    return []


def _total(lines: _Lines, names: Sequence[bytes]) -> float | None:
    values = _values(lines, names)
    return sum(values) if values else None


def _count(total: float) -> int:
    return round(max(0.0, total))


def _computed_tokens(lines: _Lines) -> float | None:
    for name in _PROMPT_TOKENS:
        samples = _samples(lines.get(name, ()))
        values = [value for labels, value in samples if _labels(labels).get(b"source") == b"local_compute"]
        if values:
            return sum(values)
    return None


def _cache_config(lines: Sequence[bytes]) -> tuple[int, int]:
    """Return tokens of a block and number of blocks.

    Every rank's series has the number of all ranks together, so the largest is it.
    """
    block_size = num_gpu_blocks = 0
    for text, _ in _samples(lines):
        labels = _labels(text)
        block_size = max(block_size, _whole(labels.get(b"block_size", b"")))
        num_gpu_blocks = max(num_gpu_blocks, _whole(labels.get(b"num_gpu_blocks", b"")))
    return block_size, num_gpu_blocks


def _lora(lines: Sequence[bytes]) -> LoraState | None:
    """Return the newest state: each one that ever was has a series, whose value is the time when it was last true."""
    newest, latest = None, -MAX_VALUE
    for labels, value in _samples(lines):
        if value >= latest:
            newest, latest = labels, value
    if newest is None:
        return None
    state = _labels(newest)
    return LoraState(
        max_adapters=_whole(state.get(b"max_lora", b"")),
        running=_names(state.get(b"running_lora_adapters", b"")),
        waiting=_names(state.get(b"waiting_lora_adapters", b"")),
    )


def _names(written: bytes) -> tuple[str, ...]:
    text = _ESCAPE.sub(lambda escape: "\n" if escape[1] == "n" else escape[1], written.decode(errors="replace"))
    return tuple(name for name in text.split(",") if name)


def _whole(written: bytes) -> int:
    """Return a whole number, 0 for what is none; vLLM writes ``None`` for what it does not know."""
    return int(written) if written.isdigit() and len(written) <= MAX_DIGITS else 0


def _sample(line: bytes) -> tuple[bytes, bytes]:
    """Labels and value as they are written."""
    found = _SAMPLE.fullmatch(line)
    if found is None:
        raise ExpositionError(f"not a sample: {_shown(line)}")
    labels, value = found.groups(b"")
    return labels, value


def _samples(lines: Sequence[bytes]) -> Iterator[tuple[bytes, float]]:
    """Labels, as they are written, and value of every line whose value can be used."""
    for line in lines:
        labels, written = _sample(line)
        try:
            value = float(written)
        except ValueError:
            raise ExpositionError(f"not a number: {_shown(written)}") from None
        if b"_" in written:  # Python's way to write numbers, nobody else's
            raise ExpositionError(f"not a number: {_shown(written)}")
        if -MAX_VALUE <= value <= MAX_VALUE:
            yield labels, value


def _labels(text: bytes) -> dict[bytes, bytes]:
    """Values by name, both as they are written."""
    if not _LABELS.fullmatch(text):
        raise ExpositionError(f"not labels: {_shown(text)}")
    return dict(_LABEL.findall(text))


def _shown(text: bytes) -> str:
    return repr(text[:80].decode(errors="replace"))
