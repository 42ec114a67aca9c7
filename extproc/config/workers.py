"""The ``workers`` list: its entries read and checked.

A worker's address is compared as text all the way to Envoy, which prints every endpoint in one form only; so that form
is required here.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable
from typing import Any

from extproc.config.address import TcpAddress, parse
from extproc.config.catalogue import Entry, fields_of
from extproc.config.convert import from_file
from extproc.config.fault import Fault, shown, unknown_keys
from extproc.config.fleet import WorkerSpec

MAX_WORKERS = 1024
MAX_MODELS = 64
MAX_MODEL_LENGTH = 256

_ID = re.compile(r"[A-Za-z0-9._:/-]{1,128}")


def read_workers(value: object) -> tuple[tuple[WorkerSpec, ...], list[Fault]]:
    """Read and check the list as the file's loader gave it; return the entries that could be read, and every fault."""
    if not isinstance(value, list):
        return (), [Fault("workers", f"must be a list, not {shown(value)}")]
    if len(value) > MAX_WORKERS:
        return (), [Fault("workers", f"must have at most {MAX_WORKERS:,} entries, not {len(value):,}")]
    faults: list[Fault] = []
    readable: list[tuple[int, WorkerSpec]] = []
    known = fields_of(WorkerSpec)
    for index, item in enumerate(value):
        spec = _read_worker(f"workers[{index}]", item, known, faults)
        if spec is not None:
            readable.append((index, spec))
    faults += _worker_faults(readable)
    return tuple(spec for _, spec in readable), faults


def find_worker_faults(workers: tuple[WorkerSpec, ...]) -> list[Fault]:
    """Check entries that were made by other means than :func:`read_workers`."""
    if len(workers) > MAX_WORKERS:
        return [Fault("workers", f"must have at most {MAX_WORKERS:,} entries, not {len(workers):,}")]
    return _worker_faults(enumerate(workers))


def _read_worker(path: str, item: object, known: dict[str, Entry], faults: list[Fault]) -> WorkerSpec | None:
    if not isinstance(item, dict):
        faults.append(Fault(path, f"must be a mapping with an `address`, not {shown(item)}"))
        return None
    found = unknown_keys(path, item, known)
    values: dict[str, Any] = {}
    for name, entry in known.items():
        if name in item:
            try:
                values[name] = from_file(item[name], entry)
            except ValueError as error:
                found.append(Fault(f"{path}.{name}", str(error)))
    faults += found
    return None if found else WorkerSpec(**values)


def _worker_faults(workers: Iterable[tuple[int, WorkerSpec]]) -> list[Fault]:
    faults: list[Fault] = []
    addresses: dict[str, int] = {}
    names: dict[str, int] = {}
    for index, spec in workers:
        path = f"workers[{index}]"
        problem = _address_problem(spec.address) or _taken(addresses, spec.address, index, "is also that of")
        if not problem and not spec.id:
            problem = _taken(names, spec.address, index, "is also the id of")
        if problem:
            faults.append(Fault(f"{path}.address", problem))
        if spec.id and not _ID.fullmatch(spec.id):
            faults.append(Fault(f"{path}.id", "must be 1 to 128 letters, digits and `. _ : / -`"))
        elif spec.id and (problem := _taken(names, spec.id, index, "is also that of")):
            faults.append(Fault(f"{path}.id", problem))
        faults += _model_faults(f"{path}.models", spec.models)
    return faults


def _taken(owners: dict[str, int], name: str, index: int, words: str) -> str:
    """Give ``name`` to worker ``index``; return whose it is already, in words, or nothing."""
    owner = owners.setdefault(name, index)
    return "" if owner == index else f"{words} workers[{owner}]"


def _address_problem(address: str) -> str:
    """Return what is wrong with a worker's address, or nothing."""
    if not address:
        return "is required: `IP:PORT`"
    try:
        parsed = parse(address)
        ip = ipaddress.ip_address(parsed.host if isinstance(parsed, TcpAddress) else "")
    except ValueError:
        return f"must be `IP:PORT` with an IP address, not a name; is {shown(address)}"
    assert isinstance(parsed, TcpAddress)
    if not parsed.port or ip.is_unspecified or ip.is_multicast or "%" in parsed.host:
        return f"must be an address and a port that Envoy can connect to; is {shown(address)}"
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6  # noqa: PLR2004 - the version of IP
    canonical = str(TcpAddress(socket.inet_ntop(family, ip.packed), parsed.port))
    return "" if canonical == address else f"must be written `{canonical}`, as Envoy prints it; is {shown(address)}"


def _model_faults(path: str, models: tuple[str, ...]) -> list[Fault]:
    if len(models) > MAX_MODELS:
        return [Fault(path, f"must have at most {MAX_MODELS} entries, not {len(models):,}")]
    faults = [
        Fault(f"{path}[{index}]", f"must be 1 to {MAX_MODEL_LENGTH} characters long")
        for index, model in enumerate(models)
        if not 0 < len(model) <= MAX_MODEL_LENGTH
    ]
    if len(set(models)) < len(models):
        faults.append(Fault(path, "names a model twice"))
    return faults
