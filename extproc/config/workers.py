"""The ``workers`` list: its entries read and checked.

A worker's address is compared as text all the way to Envoy, which prints every endpoint in one form only; so that form
is required here.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable

from extproc.config.address import TcpAddress, parse
from extproc.config.entries import model_name_problem, read_entries, too_many
from extproc.config.fault import Fault, shown
from extproc.config.fleet import WorkerSpec

MAX_WORKERS = 1024
MAX_MODELS_OF_WORKER = 64

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_ID = re.compile(r"[A-Za-z0-9._:/-]{1,128}")


def read_workers(value: object) -> tuple[tuple[WorkerSpec, ...], list[Fault]]:
    """Read and check the list as the file's loader gave it; return the entries that could be read, and every fault."""
    readable, faults = read_entries(value, name="workers", kind=WorkerSpec, most=MAX_WORKERS, needs="an `address`")
    specs = tuple(spec for _, spec in readable)
    return specs, faults + (_too_many_ranks(specs) or _worker_faults(readable))


def find_worker_faults(workers: tuple[WorkerSpec, ...]) -> list[Fault]:
    """Check entries that were made by other means than :func:`read_workers`."""
    faults = too_many("workers", workers, MAX_WORKERS) or _too_many_ranks(workers)
    return faults or _worker_faults(enumerate(workers))


def worker_address(ip: IpAddress, port: int) -> str | None:
    """Return the address of a worker in the form required here, or None when Envoy cannot connect there."""
    if not port or ip.is_unspecified or ip.is_multicast or "%" in str(ip):
        return None
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6  # noqa: PLR2004 - the version of IP
    return str(TcpAddress(socket.inet_ntop(family, ip.packed), port))


def find_model_name_faults(path: str, models: tuple[str, ...]) -> list[Fault]:
    """Return what is wrong with the list, at ``path``, of the models that a worker serves."""
    if faults := too_many(path, models, MAX_MODELS_OF_WORKER):
        return faults
    faults = [
        Fault(f"{path}[{index}]", problem)
        for index, model in enumerate(models)
        if (problem := model_name_problem(model))
    ]
    if len(set(models)) < len(models):
        faults.append(Fault(path, "names a model twice"))
    return faults


def _too_many_ranks(workers: tuple[WorkerSpec, ...]) -> list[Fault]:
    ranks = sum([spec.data_parallel_size for spec in workers])
    if ranks <= MAX_WORKERS:
        return []
    return [Fault("workers", f"has {ranks:,} data parallel ranks in all; there may be {MAX_WORKERS:,}")]


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
        if spec.data_parallel_size > 1:
            problems = [_taken(names, name, index, f"needs the id {name}, also that of") for name in spec.rank_ids]
            faults += [Fault(f"{path}.data_parallel_size", problem) for problem in problems if problem]
        faults += find_model_name_faults(f"{path}.models", spec.models)
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
    canonical = worker_address(ip, parsed.port)
    if canonical is None:
        return f"must be an address and a port that Envoy can connect to; is {shown(address)}"
    return "" if canonical == address else f"must be written `{canonical}`, as Envoy prints it; is {shown(address)}"
