"""``extproc simulate``: play a load against policies in virtual time and say how each of them fares.

The policies are those that serve, in front of a model of vLLM's engine. Nothing is written unless everything has gone
well.
"""

import argparse
import dataclasses
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from extproc.config.catalogue import Entry, fields_of
from extproc.config.convert import from_text
from extproc.config.policies import PolicyParameters
from extproc.config.reference import bounds_text, default_text
from extproc.errors import ConfigurationError, PluginUnusable, TraceUnusable
from extproc.simulation.bearable import bearable_rate
from extproc.simulation.contenders import CONTENDERS, ORACLE, OfAPackage
from extproc.simulation.loads.generators.registry import LOADS
from extproc.simulation.loads.load import BLOCK_TOKENS, Load
from extproc.simulation.loads.scaled import scaled
from extproc.simulation.loads.trace import load_trace
from extproc.simulation.report import Report
from extproc.simulation.simulation import Contender, Run, Setting, Simulation
from extproc.simulation.summary import summarize
from workers.engine.profile import Profile, ProfileError, load_profile, profile_names

POLICIES = "round_robin,least_load,cache_aware,expected_latency,smg_cache_aware"
MAX_WORKERS, MAX_REPLICAS = 256, 16
PROGRESS_EVERY = 256
EXTRA = "this needs the extra packages of a simulation: pip install 'llm-extproc[simulate]'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _epilog()
    parser.add_argument("load", help=f"a trace (JSON lines), or a built-in load: {', '.join(LOADS)}")
    parser.add_argument("--policies", default=POLICIES, metavar="NAMES", help=f"which to compare (default: {POLICIES})")
    parser.add_argument(
        "--no-oracle", action="store_true", help="leave out the policy that sees the engines themselves"
    )
    parser.add_argument("--profile", default="h100-8b", help=f"the engine: a file, or {', '.join(profile_names())}")
    parser.add_argument("--workers", type=_whole(1, MAX_WORKERS), default=8, help="engines (default: 8)")
    speed = parser.add_mutually_exclusive_group()
    speed.add_argument("--speed-up", type=_number(1e-3, 1e6), default=1.0, help="play it so many times faster")
    speed.add_argument(
        "--load-share", type=_number(0.01, 10), help="play it at this share of what round_robin gets through at most"
    )
    parser.add_argument(
        "--replicas", type=_whole(1, MAX_REPLICAS), default=1, help="services that know nothing of each other"
    )
    parser.add_argument("--routers", type=_whole(1, 64), default=1, help="router processes of each of them")
    parser.add_argument("--report-secs", type=_number(0.01, 3600), default=1.0, help="how often metrics are read")
    parser.add_argument("--report-delay-secs", type=_number(0, 3600), default=0.0, help="how late they arrive")
    parser.add_argument(
        "--event-delay-secs", type=_number(0, 3600), help="how late cache events arrive (default: there are none)"
    )
    parser.add_argument("--rate-factor", type=_number(0.01, 100), default=1.0, help="make prefill rates look wrong")
    parser.add_argument("--seed", type=_whole(0, 1 << 31), default=0, help="another seed, another run (default: 0)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="parameter of a built-in load")
    parser.add_argument(
        "--parameter", action="append", default=[], metavar="POLICY.NAME=VALUE", help="parameter of a policy"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write report.md, report.json and report.png there")


def run(arguments: argparse.Namespace) -> int:
    """Simulate and print the table; 0 when all policies got through."""
    try:
        setting = _setting(arguments)
        load = _load(arguments, setting)
        contenders = _contenders(arguments)
        runs = [_play(load, setting, contender) for contender in contenders]
    except (TraceUnusable, ProfileError, PluginUnusable) as error:
        raise ConfigurationError([str(error)]) from error
    summaries = tuple(summarize(run, profile=setting.profile, workers=setting.workers) for run in runs)
    report = Report(load=_described_load(load), setting=_described(setting), policies=summaries)
    heading = _heading(report)
    if arguments.out is not None:
        _write(arguments.out, runs, report, heading)
    print(f"{heading}\n\n{report.table()}")
    return 0


def _setting(arguments: argparse.Namespace) -> Setting:
    profile = load_profile(arguments.profile, block_size=BLOCK_TOKENS)
    return Setting(
        profile=profile,
        workers=arguments.workers,
        replicas=arguments.replicas,
        routers=arguments.routers,
        report_secs=arguments.report_secs,
        report_delay_secs=arguments.report_delay_secs,
        event_delay_secs=arguments.event_delay_secs,
        rate_factor=arguments.rate_factor,
        seed=arguments.seed,
        parameters=_parameters(arguments.parameter),
    )


def _load(arguments: argparse.Namespace, setting: Setting) -> Load:
    built_in = LOADS.get(arguments.load)
    if built_in is None:
        if arguments.set:
            raise ConfigurationError(["--set: a trace has no parameters"])
        load: Load = load_trace(Path(arguments.load))
    else:
        load = built_in(**_values(arguments.set, fields_of(built_in), flag="--set"))
    speed_up = arguments.speed_up
    if arguments.load_share is not None:
        speed_up = arguments.load_share * bearable_rate(load, setting) * max(load.secs, 1e-9) / load.requests
    return scaled(load, speed_up)


def _contenders(arguments: argparse.Namespace) -> list[Contender]:
    names = list(dict.fromkeys(name.strip() for name in arguments.policies.split(",") if name.strip()))
    if not names:
        raise ConfigurationError(["--policies: none is named"])
    if not arguments.no_oracle and ORACLE not in names:
        names.append(ORACLE)
    return [CONTENDERS[name] if name in CONTENDERS else OfAPackage(name) for name in names]


def _parameters(texts: list[str]) -> PolicyParameters:
    defaults = PolicyParameters()
    groups: dict[str, Any] = {field.name: getattr(defaults, field.name) for field in dataclasses.fields(defaults)}
    entries = {
        f"{name}.{field}": entry for name, group in groups.items() for field, entry in fields_of(type(group)).items()
    }
    for path, value in _values(texts, entries, flag="--parameter").items():
        name, _, field = path.partition(".")
        groups[name] = dataclasses.replace(groups[name], **{field: value})
    return PolicyParameters(**groups)


def _values(texts: list[str], entries: dict[str, Entry], *, flag: str) -> dict[str, Any]:
    """Read ``NAME=VALUE`` texts; raises :class:`ConfigurationError` with all that is wrong with them."""
    values, faults = {}, []
    for text in texts:
        name, found, value = text.partition("=")
        if not found or name not in entries:
            faults.append(f"{flag} {text}: must be NAME=VALUE with one of {', '.join(entries)}")
            continue
        try:
            values[name] = from_text(value, entries[name])
        except ValueError as error:
            faults.append(f"{flag} {name}: {error}")
    if faults:
        raise ConfigurationError(faults)
    return values


def _play(load: Load, setting: Setting, contender: Contender) -> Run:
    try:
        from tqdm import tqdm  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigurationError([EXTRA]) from error
    with tqdm(total=load.requests, desc=contender.name, unit="req", file=sys.stderr, disable=None, leave=False) as bar:

        def progress(ended: int) -> None:
            if not ended % PROGRESS_EVERY:
                bar.update(PROGRESS_EVERY)

        return Simulation(load=load, setting=setting, contender=contender, progress=progress).run()


def _write(folder: Path, runs: list[Run], report: Report, heading: str) -> None:
    """Write all files or none: each is complete before the first gets its name."""
    try:
        from extproc.simulation.plot import draw  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigurationError([EXTRA]) from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".simulate-", dir=folder) as name:
            place = Path(name)
            (place / "report.md").write_text(f"{heading}\n\n{report.table()}\n")
            (place / "report.json").write_bytes(report.json())
            draw(runs, place / "report.png", title=heading)
            for path in sorted(place.iterdir()):
                path.replace(folder / path.name)
    except OSError as error:
        raise ConfigurationError([f"--out: cannot write to {folder}: {error.strerror or error}"]) from error


def _heading(report: Report) -> str:
    load, setting = report.load, report.setting
    return (
        f"{load['name']}: {load['requests']} requests in {load['secs']:.0f} s, "
        f"{setting['workers']} workers, {setting['replicas']} replicas"
    )


def _described_load(load: Load) -> dict[str, object]:
    return {"name": load.name, "requests": load.requests, "secs": load.secs}


def _described(setting: Setting) -> dict[str, object]:
    values = {field.name: getattr(setting, field.name) for field in dataclasses.fields(setting)}
    profile: Profile = values.pop("profile")
    parameters: PolicyParameters = values.pop("parameters")
    return values | {"profile": profile, "parameters": dataclasses.asdict(parameters)}


def _epilog() -> str:
    lines = ["parameters of the built-in loads (--set NAME=VALUE):"]
    for name, load in LOADS.items():
        lines.append(f"  {name}: {(load.__doc__ or '').splitlines()[0]}")
        for field, entry in fields_of(load).items():
            lines.append(f"    {field} (default {default_text(entry)}; {bounds_text(entry)}): {entry.declaration.help}")
    lines.append(f"policies: {', '.join(CONTENDERS)}, or that of an installed package")
    return "\n".join(lines).replace("%", "%%")


def _number(low: float, high: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = float(text)
        if not low <= value <= high or math.isnan(value):
            raise argparse.ArgumentTypeError(f"must lie between {low:g} and {high:g}")
        return value

    return number


def _whole(low: int, high: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must lie between {low} and {high}")
        return value

    return whole
