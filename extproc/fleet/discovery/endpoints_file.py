"""Workers of an endpoints file: one that other tools write, and that has workers only.

```yaml
workers:
  - address: 10.0.0.11:8000
    models: [qwen]
```
"""

from pathlib import Path

from extproc.config.document import read_document
from extproc.config.fault import unknown_keys
from extproc.config.load import WORKERS, Lists
from extproc.config.workers import read_workers
from extproc.errors import ConfigurationError
from extproc.fleet.discovery.file import FileSource, Reading
from extproc.telemetry.metrics import DiscoveryMetrics


def load_endpoints(path: Path) -> Lists:
    """Read an endpoints file, at most 1 MiB of YAML or JSON; raises :class:`ConfigurationError` with every fault.

    The workers must be there, if only as ``workers: []``, and nothing else may.
    """
    document, faults = read_document(path)
    if not faults:
        faults += map(str, unknown_keys("", document, [WORKERS]))
        if WORKERS not in document:
            faults.append(f"{WORKERS}: is missing; write `{WORKERS}: []` for none")
    workers, worker_faults = read_workers(document.get(WORKERS, []))
    faults += map(str, worker_faults)
    if faults:
        raise ConfigurationError(faults)
    return Lists(workers=workers)


def endpoints_source(*, name: str, path: Path, interval_secs: float, metrics: DiscoveryMetrics) -> FileSource:
    """Return the source of the workers in an endpoints file; ``name`` is its own in the metrics."""

    def count(result: Reading) -> None:
        if result == "invalid":
            metrics.faults.labels(name, "invalid").inc()

    return FileSource(path=path, interval_secs=interval_secs, load=load_endpoints, on_reading=count)
