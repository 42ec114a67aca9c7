"""``extproc simulate`` as its user has it: tables, files, and what is said of input that cannot be used."""

import json
from pathlib import Path

import pytest

from extproc.cli.main import EXIT_BAD_CONFIGURATION, main

LINES = [
    {"timestamp": 250 * number, "input_length": 2_000, "output_length": 20, "hash_ids": [0, 1, 2, 10 + number]}
    for number in range(40)
]


def write_trace(path: Path, lines: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return write_trace(tmp_path / "trace.jsonl", LINES)


def simulate(*arguments: object) -> int:
    return main(["simulate", *map(str, arguments)])


def test_a_trace_is_compared_in_a_table_with_the_oracle(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate(trace, "--policies", "round_robin,expected_latency", "--workers", 3) == 0
    printed = capsys.readouterr().out
    assert "40 requests in 10 s, 3 workers" in printed
    rows = [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("|")][2:]
    assert sorted(rows) == ["expected_latency", "oracle", "round_robin"]


def test_the_same_seed_writes_the_same_bytes(trace: Path, tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        assert simulate(trace, "--policies", "random", "--seed", 3, "--out", tmp_path / name) == 0
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert set(written[0]) == {"report.md", "report.json", "report.png"}
    assert written[0] == written[1]
    report = json.loads(written[0]["report.json"])
    assert [row["policy"] for row in report["policies"]] == ["random", "oracle"]
    assert report["policies"][1]["regret"] == 0.0
    assert written[0]["report.png"].startswith(b"\x89PNG")


def test_the_first_bad_line_is_named_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = [*LINES[:16], LINES[16] | {"hash_ids": [0, 1]}, *LINES[17:]]
    out = tmp_path / "out"
    assert simulate(write_trace(tmp_path / "bad.jsonl", bad), "--out", out) == EXIT_BAD_CONFIGURATION
    assert "line 17: hash_ids" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["chat", "--set", "requests=0"], "requests"),
        (["chat", "--set", "colour=red"], "colour"),
        (["chat", "--profile", "a100"], "a100"),
        (["chat", "--policies", "no_such_policy", "--set", "requests=10"], "no_such_policy"),
        (["chat", "--parameter", "expected_latency.nothing=1"], "expected_latency.nothing"),
        (["nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_what_cannot_be_used_is_named(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate(*arguments) == EXIT_BAD_CONFIGURATION
    assert named in capsys.readouterr().err


def test_a_parameter_of_a_policy_changes_what_it_does(trace: Path, tmp_path: Path) -> None:
    def hit_rate(threshold: float) -> float:
        out = tmp_path / str(threshold)
        parameter = f"cache_aware.cache_threshold={threshold}"
        assert simulate(trace, "--policies", "cache_aware", "--parameter", parameter, "--out", out) == 0
        rate: float = json.loads((out / "report.json").read_bytes())["policies"][0]["hit_rate"]
        return rate

    assert hit_rate(0.3) > hit_rate(1.0)


def test_a_share_of_what_can_be_borne_sets_the_speed(capsys: pytest.CaptureFixture[str]) -> None:
    spans = []
    for share in (0.4, 0.8):
        assert (
            simulate("rag", "--set", "requests=400", "--load-share", share, "--policies", "random", "--no-oracle") == 0
        )
        spans.append(float(capsys.readouterr().out.split(" requests in ")[1].split(" s")[0]))
    assert spans[0] == pytest.approx(2 * spans[1], rel=0.1)
