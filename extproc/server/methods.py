"""The RPCs that are served, by path; any other path is UNIMPLEMENTED."""

from collections.abc import Mapping
from functools import partial

from extproc.server.base import OpenStream
from extproc.server.grpc_health import CheckHandler, HealthBoard, WatchHandler

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"


def methods(*, open_stream: OpenStream, health: HealthBoard) -> Mapping[str, OpenStream]:
    """Return what opens the handler of each path."""
    return {
        PROCESS: open_stream,
        CHECK: partial(CheckHandler, health),
        WATCH: partial(WatchHandler, health),
    }
