"""The file from which Envoy learns the workers.

Envoy watches the file and reads it again when another is moved onto its name, so a write is a temporary file in the
same directory and one rename: Envoy sees the old list or the new one. It needs no ``fsync``: after a power failure the
observer writes the file again before Envoy starts.

The document is plain JSON, not ``envoy_data_plane`` objects: those cost the observer 28 MB and a millisecond per worker
and write (1,000 workers: 1.2 s of a blocked event loop) for ten lines of structure. A test holds both equal.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from extproc.fleet.worker import Worker

WORKER_CLUSTER = "workers"


class EndpointFile:
    """Writes the endpoints of one Envoy cluster. One writer per path."""

    def __init__(self, *, path: Path, cluster_name: str = WORKER_CLUSTER) -> None:
        self._path = path
        self._cluster_name = cluster_name

    def write(self, workers: Sequence[Worker]) -> bool:
        """Replace the file's content; return whether it changed.

        The same content is not written again, so that Envoy does not rebuild its balancer. Raises ``OSError`` when the
        directory cannot be written; the file then still holds the former list.
        """
        content = endpoint_document(workers, cluster_name=self._cluster_name)
        if self._current() == content:
            return False
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            temporary.write_bytes(content)
            temporary.replace(self._path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        return True

    def _current(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return None


def endpoint_document(workers: Sequence[Worker], *, cluster_name: str) -> bytes:
    """Return a serialised ``DiscoveryResponse`` with one ``ClusterLoadAssignment``, workers in the order of their ids.

    A worker that shall get nothing new is listed with its state, not left out: Envoy's own balancing then avoids it,
    while a request that is on its way there is left alone.
    """
    endpoints = [_endpoint(worker) for worker in sorted(workers, key=lambda worker: worker.id)]
    resource = {
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": cluster_name,
        "endpoints": [{"lb_endpoints": endpoints}],
    }
    version = hashlib.sha256(msgspec.json.encode(resource)).hexdigest()[:16]
    document = {"version_info": version, "resources": [resource]}
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def _endpoint(worker: Worker) -> dict[str, Any]:
    host, _, port = worker.address.rpartition(":")
    socket_address = {"address": host.removeprefix("[").removesuffix("]"), "port_value": int(port)}
    endpoint: dict[str, Any] = {"endpoint": {"address": {"socket_address": socket_address}}}
    if not worker.healthy:
        endpoint["health_status"] = "UNHEALTHY"
    elif worker.state == "draining":
        endpoint["health_status"] = "DRAINING"
    return endpoint
