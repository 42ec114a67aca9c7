"""The settings of a process, from defaults, the file, the environment and flags, each overriding the one before.

Every source is read to its end and every fault of all of them is reported together. Reading depends on nothing but its
arguments and the files that they name.
"""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from extproc.config.catalogue import ENVIRONMENT_PREFIX, Entry, entries, groups
from extproc.config.check import find_faults
from extproc.config.convert import from_file, from_text
from extproc.config.document import read_document
from extproc.config.fault import Fault, bare, closest, did_you_mean, shown, unknown_keys
from extproc.config.fleet import WorkerSpec
from extproc.config.model_list import read_models
from extproc.config.models import ModelSpec
from extproc.config.plugin_list import read_plugins
from extproc.config.plugins import PluginNames, PluginSpec, no_plugins
from extproc.config.settings import Settings
from extproc.config.workers import read_workers
from extproc.errors import ConfigurationError

WORKERS = "workers"
MODELS = "models"
PLUGINS = "plugins"
LISTS = (WORKERS, MODELS, PLUGINS)
"""What the file has besides the groups."""


class Lists(NamedTuple):
    """What a running service takes over from its file when that changes, checked."""

    workers: tuple[WorkerSpec, ...] = ()
    models: tuple[ModelSpec, ...] = ()


def load_settings(path: Path | None, *, environ: Mapping[str, str], flags: Mapping[str, str]) -> Settings:
    """Read and convert the settings; ``flags`` are texts by setting path (`server.max_body_bytes`).

    Each value is checked by itself, and the entries of each list among each other; what depends on several settings is
    checked by :func:`load_checked_settings` or :func:`extproc.config.check.check_settings`. Raises
    :class:`ConfigurationError`.
    """
    reading = _read(path, environ, flags, plugin_names=None)
    if reading.faults:
        raise ConfigurationError(reading.faults)
    return reading.settings()


def load_checked_settings(
    path: Path | None,
    *,
    environ: Mapping[str, str],
    flags: Mapping[str, str],
    policies: Collection[str],
    plugin_names: PluginNames = no_plugins,
) -> Settings:
    """Read, convert and check the settings, so that one :class:`ConfigurationError` holds every fault of every kind.

    ``policies`` are the names that ``routing.policy`` may have, ``plugin_names`` those of the installed plugins. A
    check that depends on a setting which could not be read is left out.
    """
    reading = _read(path, environ, flags, plugin_names=plugin_names)
    settings = reading.settings()
    for fault in find_faults(settings, policies=policies, plugin_names=plugin_names):
        if not reading.unreadable.intersection((fault.path, *fault.involves)):
            reading.faults.append(f"{reading.sources.get(fault.path, fault.path)}: {fault.message}")
    if reading.faults:
        raise ConfigurationError(reading.faults)
    return settings


def load_lists(path: Path, *, workers_required: bool = True) -> Lists:
    """Read only the workers and models of a file that is in use; raises :class:`ConfigurationError`.

    The workers must be there, if only as ``workers: []``, and no top-level key may be unknown: a file that is caught
    half written, or a slip of the pen, must not empty the fleet. What the groups and plugins hold is not looked at.
    """
    document, faults = read_document(path)
    if not faults:
        faults += map(str, unknown_keys("", document, [*groups(), *LISTS]))
        if workers_required and WORKERS not in document:
            faults.append(f"{WORKERS}: is missing; write `{WORKERS}: []` for none")
    lists, list_faults = _read_lists(document)
    faults += map(str, list_faults)
    if faults:
        raise ConfigurationError(faults)
    return lists


def _read_lists(document: dict[str, Any]) -> tuple[Lists, list[Fault]]:
    workers, worker_faults = read_workers(document.get(WORKERS, []))
    models, model_faults = read_models(document.get(MODELS, []))
    return Lists(workers, models), worker_faults + model_faults


@dataclasses.dataclass(slots=True)
class _Reading:
    """What the sources have said so far: values, where each comes from, and what could not be read."""

    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    lists: Lists = dataclasses.field(default_factory=Lists)
    plugins: tuple[PluginSpec, ...] = ()
    sources: dict[str, str] = dataclasses.field(default_factory=dict)
    unreadable: set[str] = dataclasses.field(default_factory=set)
    faults: list[str] = dataclasses.field(default_factory=list)

    def settings(self) -> Settings:
        """Build the settings; what is not set, or not readable, has its default."""
        grouped: dict[str, dict[str, Any]] = {}
        for path, value in self.values.items():
            group, name = path.split(".")
            grouped.setdefault(group, {})[name] = value
        made = {name: group(**grouped.get(name, {})) for name, group in groups().items()}
        return Settings(**made, **self.lists._asdict(), plugins=self.plugins)

    def take_text(self, source: str, entry: Entry, text: str) -> None:
        """Take a value from an environment variable or a flag."""
        self.sources[entry.path] = source
        try:
            self.values[entry.path] = from_text(text, entry)
        except ValueError as error:
            self.unreadable.add(entry.path)
            self.faults.append(f"{source}: {error}")


def _read(
    path: Path | None, environ: Mapping[str, str], flags: Mapping[str, str], *, plugin_names: PluginNames | None
) -> _Reading:
    reading = _Reading()
    if path is not None:
        document, reading.faults = read_document(path)
        if reading.faults and not document:
            reading.unreadable.update(entries())
        _take_document(document, reading, plugin_names)
    _take_environment(environ, reading)
    _take_flags(flags, reading)
    return reading


def _take_document(document: dict[str, Any], reading: _Reading, plugin_names: PluginNames | None) -> None:
    faults = unknown_keys("", document, [*groups(), *LISTS], elsewhere=_homes())
    for name in groups():
        group = document.get(name)
        if isinstance(group, dict):
            faults += _take_group(name, group, reading)
        elif group is not None:
            faults.append(Fault(name, f"must be a mapping of settings, not {shown(group)}"))
    reading.lists, list_faults = _read_lists(document)
    reading.plugins, plugin_faults = read_plugins(document.get(PLUGINS, []), plugin_names=plugin_names)
    reading.faults += map(str, faults + list_faults + plugin_faults)


def _take_group(name: str, group: dict[str, Any], reading: _Reading) -> list[Fault]:
    known = {entry.path.partition(".")[2]: entry for entry in entries().values() if entry.path.startswith(f"{name}.")}
    faults = unknown_keys(name, group, known, elsewhere=_homes())
    for key, entry in known.items():
        if key not in group:
            continue
        try:
            reading.values[entry.path] = from_file(group[key], entry)
        except ValueError as error:
            reading.unreadable.add(entry.path)
            faults.append(Fault(entry.path, str(error)))
    return faults


def _homes() -> dict[str, str]:
    """Return where a setting of a given name stands, to help with a right key in a wrong place."""
    return {path.partition(".")[2]: path for path in entries()}


def _take_environment(environ: Mapping[str, str], reading: _Reading) -> None:
    known = {entry.environment_name: entry for entry in entries().values()}
    in_file_only = {ENVIRONMENT_PREFIX + name.upper(): name for name in LISTS}
    reserved = tuple(f"{ENVIRONMENT_PREFIX}{name.upper()}_" for name in groups())
    for variable in sorted(environ):
        if variable in known:
            entry = known[variable]
            reading.take_text(f"{variable} ({entry.path})", entry, environ[variable])
        elif variable in in_file_only:
            reading.faults.append(f"{variable}: the {in_file_only[variable]} are set in the file only")
        elif variable.startswith(reserved):
            prefix = next(prefix for prefix in reserved if variable.startswith(prefix))
            names = [name.removeprefix(prefix) for name in known if name.startswith(prefix)]
            meant = closest(variable.removeprefix(prefix), names)
            hint = did_you_mean(prefix + meant if meant else None)
            reading.faults.append(f"{bare(variable)}: unknown setting{hint}")


def _take_flags(flags: Mapping[str, str], reading: _Reading) -> None:
    for path, text in flags.items():
        entry = entries().get(path)
        if entry is None:
            reading.faults.append(f"{bare(path)}: unknown setting")
        else:
            reading.take_text(entry.flag, entry, text)
