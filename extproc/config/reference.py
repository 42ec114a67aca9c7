"""The settings as a page for operators, made from the declarations: ``python -m extproc.config.reference`` writes it.

A test fails when the page in the repository is not the one made here.
"""

import inspect
from collections.abc import Iterable
from pathlib import Path

from extproc.config.catalogue import Entry, fields_of, groups
from extproc.config.convert import type_name
from extproc.config.fleet import WorkerSpec
from extproc.config.model_list import MAX_MODELS, MAX_OTHER_NAMES
from extproc.config.models import ModelSpec
from extproc.config.plugin_list import MAX_PLUGINS
from extproc.config.plugins import PluginSpec
from extproc.config.workers import MAX_MODELS_OF_WORKER, MAX_WORKERS

PAGE = Path(__file__).with_name("README.md")

_INTRODUCTION = """\
<!-- Made by `python -m extproc.config.reference`; change the declarations, not this page. -->

# Settings

One YAML file (or JSON, when its name ends in `.json`) with a section for every group below, and the lists `workers`,
`models` and `plugins`. Everything has a default, so the smallest useful file is

```yaml
workers:
  - address: 10.0.0.1:8000
  - address: 10.0.0.2:8000
```

A setting can be given in four ways; each overrides the one before: its default, the file, the environment
(`EXTPROC_SERVER_MAX_STREAMS=500`), a flag (`--server.max-streams 500`). The lists are set in the file only; changes to
workers and models there are taken over while the service runs.

`extproc check -c FILE` reports everything that is wrong with a configuration. Unknown names are faults. Nothing is
converted in silence: a quoted number is text, `true` and `false` are the only truth values, and words such as `off` are
text. In the environment and in flags a list is separated by commas.
"""


def render() -> str:
    """Return the page."""
    parts = [_INTRODUCTION]
    for name, group in groups().items():
        parts.append(f"## `{name}`\n\n{_first_line(group)}\n")
        parts.append(_table(fields_of(group, prefix=f"{name}.").values(), environment=True))
    for name, kind, most in (
        ("workers", WorkerSpec, f"{MAX_WORKERS:,} entries, with at most {MAX_MODELS_OF_WORKER} models each"),
        ("models", ModelSpec, f"{MAX_MODELS:,} entries, with at most {MAX_OTHER_NAMES} aliases and adapters each"),
        ("plugins", PluginSpec, f"{MAX_PLUGINS:,} entries"),
    ):
        parts.append(f"## `{name}`\n\n{_first_line(kind)} At most {most}.\n")
        parts.append(_table(fields_of(kind).values(), environment=False))
    return "\n".join(parts)


def default_text(entry: Entry) -> str:
    """Return the default as an operator would write it, without its unit."""
    value = entry.default
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"{value:_}".removesuffix(".0")
    if isinstance(value, tuple):
        return f"[{', '.join(value)}]"
    return str(value) or '""'


def bounds_text(entry: Entry) -> str:
    """Return the inclusive bounds, or nothing."""
    low, high = entry.declaration.low, entry.declaration.high
    if low is not None and high is not None:
        return f"{low:,} to {high:,}"
    if low is not None:
        return f"at least {low:,}"
    return "" if high is None else f"at most {high:,}"


def _first_line(group: type) -> str:
    return (inspect.getdoc(group) or "").partition("\n")[0]


def _table(rows: Iterable[Entry], *, environment: bool) -> str:
    columns = ["Setting", "Type", "Default", "Bounds", "Meaning"] + ["Environment"] * environment
    lines = [_row(columns), _row(["---"] * len(columns))]
    for entry in rows:
        unit = f" {entry.declaration.unit}" if entry.declaration.unit else ""
        cells = [
            f"`{entry.path.rpartition('.')[2]}`",
            type_name(entry.type),
            f"`{default_text(entry)}`{unit}",
            bounds_text(entry),
            entry.declaration.help,
        ]
        lines.append(_row(cells + [f"`{entry.environment_name}`"] * environment))
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
