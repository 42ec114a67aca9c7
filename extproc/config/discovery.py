"""Discovery: where workers are found besides the ``workers`` list."""

import dataclasses

from extproc.config.setting import setting


@dataclasses.dataclass(frozen=True, slots=True)
class DiscoverySettings:
    """Settings of the sources that add workers to those of the `workers` list; all of them may be used together.

    A worker that two sources report is taken from the first of: the `workers` list, the file, the DNS names
    in their order, the plugins in their order.
    """

    file: str = setting(
        "",
        "File with a list `workers` as the configuration has one; YAML, or JSON when its name ends in `.json`; at most "
        "1 MiB. Followed as it changes. Empty: off.",
    )
    dns_names: tuple[str, ...] = setting(
        (),
        "Names whose addresses are workers: `HOST:PORT` (A and AAAA records), or `srv:NAME` (SRV records, which carry "
        "the ports; only those of the best priority are used, and weights are not). DNS servers are asked, not "
        "`/etc/hosts`. Empty: off.",
    )
    dns_models: tuple[str, ...] = setting((), "Models that workers found by DNS serve. Empty: any.")
    dns_server: str = setting(
        "",
        "`IP:PORT` of the DNS server to ask; names are then taken to be complete. Empty: the servers and the search "
        "list of `/etc/resolv.conf`.",
    )
    dns_min_ttl_secs: float = setting(
        1.0, "An answer is kept at least this long, whatever its TTL.", unit="seconds", low=0.05, high=86_400
    )
    dns_max_ttl_secs: float = setting(
        300.0, "An answer is kept at most this long, whatever its TTL.", unit="seconds", low=0.05, high=86_400
    )
    dns_timeout_secs: float = setting(
        3.0,
        "A look-up that takes longer, over all servers and tries, has failed; what is known stays.",
        unit="seconds",
        low=0.05,
        high=60,
    )
    plugins: tuple[str, ...] = setting(
        (),
        "Plugins that find workers: names of entry points of the group `extproc.discovery`; their options stand in "
        "the list `plugins`. Empty: none.",
    )
    retry_secs: float = setting(
        1.0,
        "Wait after a failed DNS look-up, and before a source that failed is started again; doubled for each failure "
        "in a row.",
        unit="seconds",
        low=0.05,
        high=3600,
    )
    retry_max_secs: float = setting(30.0, "Longest such wait.", unit="seconds", low=0.05, high=3600)
    first_report_timeout_secs: float = setting(
        5.0,
        "How long the first list of a process waits for every source to know its workers; then it has those of the "
        "others, and those known before. The `workers` list is used from the start.",
        unit="seconds",
        low=0,
        high=600,
    )
