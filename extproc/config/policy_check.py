"""What must hold between a policy, its parameters and the workers.

As all checks, each returns faults and none stops the others.
"""

import re
from collections.abc import Iterator

from extproc.config.fault import Fault, shown
from extproc.config.fleet import WorkerSpec
from extproc.config.model_list import names_of
from extproc.config.settings import Settings

CREDENTIAL_HEADERS = frozenset(
    {
        "api-key",
        "authorization",
        "cookie",
        "proxy-authorization",
        "set-cookie",
        "x-amz-security-token",
        "x-api-key",
        "x-auth-token",
        "x-goog-api-key",
    }
)
"""Headers whose value is a secret: it must not decide where a request goes, nor reach this service at all."""

_HEADER_NAMES = "consistent_hashing.header_names"
_LOAD_FACTOR = "consistent_hashing.load_factor"
_ONE_WORKER = "passthrough"
_HEADER_NAME = re.compile(r"[a-z0-9!#$%&'+.^_`|~-]+")


def find_policy_faults(settings: Settings) -> list[Fault]:
    """Return what is wrong with the parameters of policies, and with policies for the workers there are."""
    faults = [*_key_headers(settings), *_lone_workers(settings)]
    if 0 < settings.consistent_hashing.load_factor < 1:
        faults.append(Fault(_LOAD_FACTOR, "must be 0 or at least 1: some worker is always at the mean"))
    return faults


def find_policy_warnings(settings: Settings) -> list[Fault]:
    """Return what is allowed and likely a mistake: key headers that the data plane does not show us."""
    forwarded = settings.envoy.forwarded_headers
    return [
        Fault(_HEADER_NAMES, f"{shown(name)} is not among `envoy.forwarded_headers`, so Envoy does not show it to us")
        for name in settings.consistent_hashing.header_names
        if not any(name == other or (other.endswith("*") and name.startswith(other[:-1])) for other in forwarded)
    ]


def _key_headers(settings: Settings) -> Iterator[Fault]:
    for name in settings.consistent_hashing.header_names:
        if name.lower() in CREDENTIAL_HEADERS:
            yield Fault(_HEADER_NAMES, f"{shown(name)} carries a credential, which is never a key")
        elif not _HEADER_NAME.fullmatch(name):
            yield Fault(_HEADER_NAMES, f"must be names of headers in lower case; {shown(name)} is none")


def _lone_workers(settings: Settings) -> Iterator[Fault]:
    """Find policies for one worker where there are more; those that drain get no requests and do not count."""
    workers = [worker for worker in settings.workers if not worker.draining]
    if settings.routing.policy == _ONE_WORKER and len(workers) > 1:
        yield Fault("routing.policy", _too_many(len(workers)), ("workers",))
    for index, model in enumerate(settings.models):
        serving = sum(_serves(worker, {*names_of(model)}) for worker in workers)
        if model.policy == _ONE_WORKER and serving > 1:
            yield Fault(f"models[{index}].policy", _too_many(serving), ("workers",))


def _serves(worker: WorkerSpec, names: set[str]) -> bool:
    return not worker.models or not names.isdisjoint(worker.models)


def _too_many(workers: int) -> str:
    return f"`{_ONE_WORKER}` is for one worker, and there are {workers}; name another policy"
