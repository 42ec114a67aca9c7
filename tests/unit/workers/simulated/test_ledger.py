import asyncio
import hashlib

import pytest

from workers.simulated.ledger import MAX_PATHS, Entry, Ledger


def answer(ledger: Ledger, path: str, status: int = 200) -> None:
    entry = Entry(method="POST", path=path, headers=[])
    with ledger.enter(entry, path=path):
        entry.status = status


async def test_counts_what_was_answered_given_up_and_reset() -> None:
    ledger = Ledger(remember=10)
    answer(ledger, "/a")
    answer(ledger, "/a", 503)
    answer(ledger, "/b", 0)
    with pytest.raises(asyncio.CancelledError), ledger.enter(Entry(method="GET", path="/b", headers=[]), path="/b"):
        raise asyncio.CancelledError

    shown = ledger.shown()

    assert (shown["served"], shown["reset"], shown["aborted"], shown["in_flight"]) == (2, 1, 1, 0)
    assert shown["by_path"] == {"/a": 2, "/b": 2}
    assert shown["by_status"] == {"200": 1, "503": 1}
    assert shown["max_in_flight"] == 1


async def test_the_last_requests_and_the_paths_are_bounded() -> None:
    ledger = Ledger(remember=2)
    for number in range(MAX_PATHS + 5):
        answer(ledger, f"/{number}")

    shown = ledger.shown()

    assert [entry["path"] for entry in shown["last"]] == [f"/{MAX_PATHS + 3}", f"/{MAX_PATHS + 4}"]
    assert shown["by_path"]["(other)"] == 5
    assert len(shown["by_path"]) == MAX_PATHS + 1


async def test_credentials_are_not_shown() -> None:
    headers = [("Authorization", "Bearer secret"), ("X-API-Key", "secret"), ("X-Tenant", "a"), ("X-Tenant", "b")]
    entry = Entry(method="POST", path="/", headers=headers)

    assert entry.shown_headers() == [
        ("authorization", "(hidden)"),
        ("x-api-key", "(hidden)"),
        ("x-tenant", "a"),
        ("x-tenant", "b"),
    ]


async def test_bodies_are_remembered_by_length_and_digest_alone() -> None:
    entry = Entry(method="POST", path="/", headers=[])
    entry.saw_body(b"prompt")

    assert entry.shown()["body_bytes"] == 6
    assert entry.shown()["body_sha256"] == hashlib.sha256(b"prompt").hexdigest()
    assert b"prompt" not in repr(entry.shown()).encode()


async def test_idle_ends_with_the_last_request() -> None:
    ledger = Ledger(remember=0)
    await ledger.idle()
    with ledger.enter(Entry(method="GET", path="/", headers=[]), path="/"), pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await ledger.idle()
    await ledger.idle()


async def test_clearing_keeps_what_is_in_flight() -> None:
    ledger = Ledger(remember=5)
    answer(ledger, "/a")
    entry = Entry(method="GET", path="/b", headers=[])
    with ledger.enter(entry, path="/b"):
        ledger.clear()
        assert (ledger.shown()["in_flight"], ledger.shown()["max_in_flight"]) == (1, 1)
        entry.status = 200

    assert (ledger.shown()["served"], ledger.shown()["in_flight"]) == (1, 0)
