"""The lists of the configuration file, ``workers`` and ``models``, followed as the file changes."""

from pathlib import Path

from extproc.config.load import Lists, load_lists
from extproc.fleet.discovery.file import FileSource
from extproc.telemetry.metrics import Metrics


class StaticLoader:
    """Reads the lists of the configuration file.

    A file that has workers, or had some when it was last read, must name them, if only as ``workers: []``: otherwise
    half a file could empty the fleet. A service whose workers come from elsewhere need not mention them at all.
    """

    def __init__(self, *, workers_required: bool) -> None:
        self._workers_required = workers_required

    def __call__(self, path: Path) -> Lists:
        """Read; raises :class:`~extproc.errors.ConfigurationError`."""
        lists = load_lists(path, workers_required=self._workers_required)
        self._workers_required = self._workers_required or bool(lists.workers)
        return lists


def static_source(*, path: Path, interval_secs: float, workers_required: bool, metrics: Metrics) -> FileSource:
    """Return the source of the configuration's own lists; readings are counted as reloads of the configuration."""
    return FileSource(
        path=path,
        interval_secs=interval_secs,
        load=StaticLoader(workers_required=workers_required),
        on_reading=lambda result: metrics.reloads.labels(result).inc(),
    )
