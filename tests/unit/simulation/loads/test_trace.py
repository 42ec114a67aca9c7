"""Traces: read as a whole or refused with the first bad line, whatever is in the file."""

import io
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.errors import TraceUnusable
from extproc.simulation.loads.load import MAX_SECS, Load
from extproc.simulation.loads.trace import MAX_LINE_BYTES, Trace, load_trace, read_trace

GOOD: dict[str, Any] = {"timestamp": 1000, "input_length": 1025, "output_length": 7, "hash_ids": [4, 5, 6]}


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def read(content: bytes) -> Trace:
    return read_trace(io.BytesIO(content), name="test")


def fault(content: bytes) -> str:
    with pytest.raises(TraceUnusable) as caught:
        read(content)
    return str(caught.value)


def test_a_line_is_a_session_of_one_request() -> None:
    rows = [
        GOOD,
        {"timestamp": 1250.5, "input_length": 512, "output_length": 0, "hash_ids": [4], "model": "m", "worker": [1]},
        {"timestamp": 1250.5, "input_length": 513, "output_length": 1_000_000, "hash_ids": [4, 2**64 - 1]},
    ]
    load: Load = read(lines(*rows))
    assert (load.name, load.requests, load.secs) == ("test", 3, 0.2505)
    sessions = list(load.sessions())
    assert [session.starts_at for session in sessions] == [0.0, 0.2505, 0.2505]
    assert len({session.key for session in sessions}) == 3
    turns = [turn for session in sessions for turn in session.turns]
    assert [turn.prompt_tokens for turn in turns] == [1025, 512, 513]
    assert [turn.answer_tokens for turn in turns] == [7, 1, 1_000_000]
    assert [len(turn.blocks) for turn in turns] == [3, 1, 2]
    assert len({int(turn.blocks[0]) for turn in turns}) == 1
    assert len({int(one) for turn in turns for one in turn.blocks}) == 4
    assert not any(turn.blocks.flags.writeable for turn in turns)


def test_the_last_line_may_lack_its_end_and_lines_may_end_as_on_windows() -> None:
    assert read(lines(GOOD, GOOD).replace(b"\n", b"\r\n").removesuffix(b"\r\n")).requests == 2


def test_many_lines_are_hashed_as_few_are() -> None:
    rows = [GOOD | {"hash_ids": [number % 5, number, number]} for number in range(9000)]
    whole = list(read(lines(*rows)).sessions())
    for number in (0, 4095, 4096, 8999):
        (alone,) = read(lines(rows[number])).sessions()
        assert whole[number].turns[0].blocks.tolist() == alone.turns[0].blocks.tolist()
        assert whole[number].key == f"request-{number + 1}"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "is empty"),
        (b"  \t", "is empty"),
        (b"{", "Input data was truncated"),
        (b"nonsense", "JSON is malformed: invalid character (byte 4)"),
        (b'{"timestamp": NaN}', "JSON is malformed: invalid character (byte 14)"),
        (b"[1]", "Expected `object`, got `array`"),
        (b"12", "Expected `object`, got `int`"),
        (lines(GOOD).strip() * 2, "JSON is malformed: trailing characters (byte 85)"),
        (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "is nested too deeply"),
        (b'{"x": "\xc3("}', "is not UTF-8 (byte 7)"),
    ],
    ids=lambda value: value[:20].decode(errors="replace") if isinstance(value, bytes) else value[:20],
)
def test_a_line_that_is_no_object_is_named(line: bytes, reason: str) -> None:
    assert fault(lines(GOOD) + line + b"\n" + lines(GOOD)) == f"line 2: {reason}"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"timestamp": None}, "Expected `float`, got `null` - at `$.timestamp`"),
        ({"timestamp": True}, "Expected `float`, got `bool` - at `$.timestamp`"),
        ({"timestamp": "1"}, "Expected `float`, got `str` - at `$.timestamp`"),
        ({"timestamp": -1}, "Expected `float` >= 0.0 - at `$.timestamp`"),
        ({"timestamp": 10**15}, "Expected `float` <= 100000000000000.0 - at `$.timestamp`"),
        ({"timestamp": 10**400}, "Number out of range - at `$.timestamp`"),
        ({"timestamp": 999.5}, "timestamp falls from 1000 to 999.5"),
        ({"timestamp": 1001 + MAX_SECS * 1000}, "timestamp is more than 366 days after the first"),
        ({"input_length": 0}, "Expected `int` >= 1 - at `$.input_length`"),
        ({"input_length": 1.5}, "Expected `int`, got `float` - at `$.input_length`"),
        ({"input_length": 10_000_001}, "Expected `int` <= 10000000 - at `$.input_length`"),
        ({"input_length": 2048}, "hash_ids has 3 entries, an input_length of 2048 needs 4"),
        ({"input_length": 1024}, "hash_ids has 3 entries, an input_length of 1024 needs 2"),
        ({"hash_ids": [1]}, "hash_ids has 1 entry, an input_length of 1025 needs 3"),
        ({"hash_ids": []}, "hash_ids has 0 entries, an input_length of 1025 needs 3"),
        ({"hash_ids": [1, 2, -3]}, "Expected `int` >= 0"),
        ({"hash_ids": [1, 2, "3"]}, "Expected `int`, got `str` - at `$.hash_ids[2]`"),
        ({"hash_ids": [1, 2, 2**64]}, "hash_ids has a number of more than 64 bits"),
        ({"hash_ids": 3}, "Expected `array`, got `int` - at `$.hash_ids`"),
        ({"output_length": -1}, "Expected `int` >= 0 - at `$.output_length`"),
        ({"output_length": 1_000_001}, "Expected `int` <= 1000000 - at `$.output_length`"),
    ],
    ids=str,
)
def test_a_field_that_is_not_what_it_must_be_is_named(change: dict[str, object], reason: str) -> None:
    assert fault(lines(GOOD, GOOD | change, GOOD)).startswith(f"line 2: {reason}")


@pytest.mark.parametrize("field", sorted(GOOD))
def test_a_field_that_is_missing_is_named(field: str) -> None:
    without = {name: value for name, value in GOOD.items() if name != field}
    assert fault(lines(without)) == f"line 1: Object missing required field `{field}`"


def test_a_timestamp_falls_where_it_is_below_the_one_before() -> None:
    rows = [GOOD | {"timestamp": timestamp} for timestamp in (1, 3, 3, 2, 4)]
    assert fault(lines(*rows)) == "line 4: timestamp falls from 3 to 2"


def test_a_trace_does_not_take_longer_than_a_simulation_may() -> None:
    rows = [GOOD | {"timestamp": 1000 + part * MAX_SECS * 1000} for part in (0, 0.6, 1)]
    assert read(lines(*rows)).secs == MAX_SECS
    last = GOOD | {"timestamp": 1001 + MAX_SECS * 1000}
    assert fault(lines(*rows, last)) == "line 4: timestamp is more than 366 days after the first"


def test_an_empty_file_is_refused() -> None:
    assert fault(b"") == "the file is empty"


def test_a_line_without_end_is_refused_before_it_fills_the_memory() -> None:
    assert fault(lines(GOOD) + b" " * (MAX_LINE_BYTES + 1)) == f"line 2: is longer than {MAX_LINE_BYTES:,} bytes"


def test_a_trace_of_too_many_lines_or_blocks_is_refused() -> None:
    content = lines(*[GOOD] * 5)
    assert read_trace(io.BytesIO(content), name="t", max_lines=5, max_blocks=15).requests == 5
    with pytest.raises(TraceUnusable, match=r"^line 5: a trace has at most 4 lines$"):
        read_trace(io.BytesIO(content), name="t", max_lines=4)
    with pytest.raises(TraceUnusable, match=r"^line 5: a trace has at most 14 hash_ids in all$"):
        read_trace(io.BytesIO(content), name="t", max_blocks=14)


def test_a_file_is_named_with_its_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with pytest.raises(TraceUnusable, match=f"^{re.escape(str(path))}: No such file or directory$"):
        load_trace(path)
    path.write_bytes(lines(GOOD) + b"x\n")
    with pytest.raises(TraceUnusable, match=f"^{re.escape(str(path))}: line 2: JSON is malformed"):
        load_trace(path)
    with pytest.raises(TraceUnusable, match=r": Is a directory$"):
        load_trace(tmp_path)
    path.write_bytes(lines(GOOD))
    assert load_trace(path).name == "a.jsonl"


def judge(content: bytes) -> int | None:
    """Read; returns the number of the bad line, 0 for an empty file, or None if all is good, which is then checked."""
    try:
        load = read(content)
    except TraceUnusable as error:
        named = re.fullmatch(r"line (\d+): .+|the file is empty", str(error))
        assert named is not None
        number = int(named[1] or 0)
        assert number <= content.count(b"\n") + 1
        return number
    sessions = list(load.sessions())
    assert len(sessions) == load.requests >= 1
    starts = [session.starts_at for session in sessions]
    assert starts == sorted(starts)
    assert (starts[0], starts[-1]) == (0.0, load.secs)
    for session in sessions:
        (turn,) = session.turns
        assert turn.answer_tokens >= 1
        assert len(turn.blocks) == -(-turn.prompt_tokens // 512) >= 1
    return None


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=4))
def test_any_bytes_are_a_load_or_a_named_line(content: list[bytes]) -> None:
    judge(b"\n".join(content))


@settings(deadline=None)
@given(
    st.lists(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from([*GOOD, "x"]) | st.text(max_size=3), inner, max_size=5)
            ),
        ),
        max_size=4,
    )
)
def test_any_json_is_a_load_or_a_named_line(rows: list[object]) -> None:
    judge(lines(*rows))


@settings(deadline=None)
@given(st.integers(1, 3), st.data())
def test_a_good_trace_with_any_damage_is_a_load_or_a_named_line(count: int, data: st.DataObject) -> None:
    content = lines(*[GOOD] * count)
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(start + 3, len(content))))
    judge(
        content[:start] + data.draw(st.binary(max_size=3) | st.sampled_from([b"-", b"9e9", b",", b"}"])) + content[end:]
    )


numbers = st.integers(-2, 2000) | st.floats(0, 2000) | st.sampled_from([2**63, 2**64, 10_000_000, 1_000_001, 10**30])


@settings(deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries({"timestamp": numbers, "input_length": numbers, "output_length": numbers})
        | st.fixed_dictionaries(
            {"timestamp": st.integers(3, 6), "input_length": st.integers(1, 2000), "output_length": st.just(1)}
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([0, 0, 0, 1]),
)
def test_the_bad_line_is_the_first_one(rows: list[dict[str, Any]], too_many: int) -> None:
    for row in rows:
        tokens = row["input_length"]
        needed = -(-tokens // 512) if isinstance(tokens, int) and 0 < tokens < 10_000 else 1
        row["hash_ids"] = list(range(needed + too_many))
    bad = [not is_good(row) for row in rows]
    falls = [one["timestamp"] > other["timestamp"] for one, other in itertools.pairwise(rows)]
    verdicts = [one or other for one, other in zip(bad, [False, *falls], strict=True)]
    assert judge(lines(*rows)) == (verdicts.index(True) + 1 if True in verdicts else None)


def is_good(row: dict[str, Any]) -> bool:
    whole = isinstance(row["input_length"], int) and isinstance(row["output_length"], int)
    return (
        whole
        and 0 <= row["timestamp"] < 10**14
        and 1 <= row["input_length"] <= 10_000_000
        and 0 <= row["output_length"] <= 1_000_000
        and len(row["hash_ids"]) == -(-row["input_length"] // 512)
    )
