"""The workers that one DNS name stands for, followed as its answers run out."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Literal, NoReturn, Protocol

from extproc.config.dns_name import DnsName
from extproc.config.fleet import WorkerSpec
from extproc.config.load import Lists
from extproc.config.workers import MAX_WORKERS, IpAddress, worker_address
from extproc.fleet.discovery.dns_answers import AnswerTracker, Failed, Found, Nothing, Outcome, Record, TtlBounds
from extproc.fleet.discovery.dns_lookup import Target
from extproc.fleet.discovery.left_out import LeftOut
from extproc.fleet.discovery.retry import Retry
from extproc.telemetry.metrics import DiscoveryMetrics

logger = logging.getLogger(__name__)

MAX_TARGETS = MAX_WORKERS
"""Targets of one service name that are followed."""

LAST_PORT = 65535

_KINDS: tuple[Literal["A", "AAAA"], ...] = ("A", "AAAA")


class Lookup(Protocol):
    """Who answers questions (:class:`extproc.fleet.discovery.dns_lookup.DnsLookup`)."""

    async def addresses(self, host: str, kind: Literal["A", "AAAA"]) -> Outcome[IpAddress]:
        """Ask for the addresses of a host."""

    async def targets(self, name: str) -> Outcome[Target]:
        """Ask for the targets of a service."""


class _Host:
    """A host name that is followed: what is known of its addresses, and who asks."""

    def __init__(
        self, trackers: tuple[AnswerTracker[IpAddress], ...], tasks: tuple[asyncio.Task[NoReturn], ...]
    ) -> None:
        self.trackers = trackers
        self._tasks = tasks

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()


class DnsSource:
    """Follows one name; see :class:`~extproc.fleet.discovery.base.Source` for the contract. It is watched once.

    Every question (the A records of a host, its AAAA records, the service records of a name) is asked again by itself
    when its last answer has run out: at its TTL within the bounds of ``ttl``, after a failure by ``retry``. See
    :class:`~extproc.fleet.discovery.dns_answers.AnswerTracker` for what an answer changes.

    Lists are reported when they are settled: every question has had an outcome, and there is an address, or certainty
    that there is none. So a service whose hosts are all replaced at once keeps the old ones until the new ones are
    known, and a name of which only one kind of address can be asked for is used.

    A worker is an address and a port, and that is its id too; it serves ``models``. ``label`` is the source's name in
    logs and metrics; ``sleep`` is how waits are spent.
    """

    def __init__(
        self,
        *,
        label: str,
        name: DnsName,
        models: tuple[str, ...],
        lookup: Lookup,
        ttl: TtlBounds,
        retry: Retry,
        metrics: DiscoveryMetrics,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._label = label
        self._name = name
        self._models = models
        self._lookup = lookup
        self._metrics = metrics
        self._sleep = sleep
        self._new_tracker = partial(AnswerTracker[Any], ttl=ttl, retry=retry)
        self._service: AnswerTracker[Target] | None = self._new_tracker() if name.port is None else None
        self._hosts: dict[str, _Host] = {}
        self._changed = asyncio.Event()
        self._left_out = LeftOut(source=label, metrics=metrics)

    async def watch(self, on_lists: Callable[[Lists], None]) -> NoReturn:
        """Report the name's workers at once and after each change, until cancelled."""
        reported: tuple[str, ...] | None = None
        async with asyncio.TaskGroup() as group:
            if self._service is not None:
                ask = partial(self._targets, self._name.name)
                group.create_task(self._follow("SRV", self._name.name, self._service, ask))
            while True:
                ports = self._ports()
                self._follow_hosts(ports, group)
                addresses = self._settled(ports)
                if addresses is not None and addresses != reported:
                    reported = addresses
                    on_lists(Lists(tuple(WorkerSpec(address=text, models=self._models) for text in addresses)))
                await self._changed.wait()
                self._changed.clear()

    async def _follow(
        self, kind: str, name: str, tracker: AnswerTracker[Any], ask: Callable[[], Awaitable[Outcome[Any]]]
    ) -> NoReturn:
        """Ask one question whenever what is known of it has run out."""
        task = asyncio.current_task()
        assert task is not None
        while True:
            outcome = await ask()
            if task.cancelling():
                # `asyncio.wait_for`, on which the look-up rests, loses a cancellation that comes with the answer.
                raise asyncio.CancelledError
            self._metrics.dns_lookups.labels(self._label, outcome.result).inc()
            _log(f"{kind} records of {name}", outcome, tracker)
            wait_secs = tracker.take(outcome)
            self._changed.set()
            await self._sleep(wait_secs)

    async def _addresses(self, host: str, kind: Literal["A", "AAAA"]) -> Outcome[IpAddress]:
        return self._usable(f"{kind} {host}", await self._lookup.addresses(host, kind), _unusable_address)

    async def _targets(self, name: str) -> Outcome[Target]:
        return self._usable("SRV", await self._lookup.targets(name), _unusable_target)

    def _usable(self, part: str, outcome: Outcome[Record], unusable: Callable[[Record], str]) -> Outcome[Record]:
        """Return an outcome without the records that no worker can have; without any left it is as good as none."""
        if not isinstance(outcome, Found):
            return outcome
        refused = {record: words for record in outcome.records if (words := unusable(record))}
        self._left_out.note("invalid", refused.values(), part=part, why="as nothing can connect there")
        if not refused:
            return outcome
        rest = outcome.records - refused.keys()
        return Found(rest, outcome.ttl_secs) if rest else Nothing(outcome.ttl_secs)

    def _ports(self) -> dict[str, set[int]]:
        """Return the hosts to follow, each with the ports of its workers."""
        if self._service is None:
            assert self._name.port is not None
            return {self._name.name: {self._name.port}}
        targets = sorted(self._service.records)
        self._left_out.note(
            "too_many", map(str, targets[MAX_TARGETS:]), part="SRV", why=f"beyond {MAX_TARGETS:,} targets"
        )
        ports: dict[str, set[int]] = {}
        for target in targets[:MAX_TARGETS]:
            ports.setdefault(target.host, set()).add(target.port)
        return ports

    def _follow_hosts(self, hosts: Mapping[str, object], group: asyncio.TaskGroup) -> None:
        for host in self._hosts.keys() - hosts.keys():
            self._hosts.pop(host).stop()
            for kind in _KINDS:
                self._left_out.note("invalid", (), part=f"{kind} {host}", why="")
        for host in hosts.keys() - self._hosts.keys():
            trackers = tuple(self._new_tracker() for _ in _KINDS)
            tasks = [
                group.create_task(self._follow(kind, host, tracker, partial(self._addresses, host, kind)))
                for kind, tracker in zip(_KINDS, trackers, strict=True)
            ]
            self._hosts[host] = _Host(trackers, tuple(tasks))

    def _settled(self, ports: Mapping[str, set[int]]) -> tuple[str, ...] | None:
        """Return the addresses of the workers, in an order of their own, or None while they are not settled."""
        trackers = [tracker for host in self._hosts.values() for tracker in host.trackers]
        every: list[AnswerTracker[Any]] = trackers if self._service is None else [self._service, *trackers]
        found = {
            (ip.version, ip.packed, port): worker_address(ip, port)
            for host, known in self._hosts.items()
            for tracker in known.trackers
            for ip in tracker.records
            for port in ports[host]
        }
        if not all(tracker.asked for tracker in every) or not (found or all(tracker.certain for tracker in every)):
            return None
        addresses = [address for _, address in sorted(found.items()) if address]
        self._left_out.note("too_many", addresses[MAX_WORKERS:], why=f"beyond {MAX_WORKERS:,} workers")
        return tuple(addresses[:MAX_WORKERS])


def _unusable_address(ip: IpAddress) -> str:
    return "" if worker_address(ip, LAST_PORT) else str(ip)


def _unusable_target(target: Target) -> str:
    return "" if target.port else f"{target.host}:{target.port}"


def _log(question: str, outcome: Outcome[Any], tracker: AnswerTracker[Any]) -> None:
    """Tell of the first failure in a row, of its end, and of an answer that would empty what is known."""
    if isinstance(outcome, Failed):
        if not tracker.failures:
            logger.warning("%s cannot be looked up, what is known stays: %s", question, outcome.reason)
        return
    if tracker.failures:
        logger.info("%s can be looked up again", question)
    if isinstance(outcome, Nothing) and tracker.records:
        logger.info("There are no %s any more, says the DNS server; they are used until it says so twice", question)
