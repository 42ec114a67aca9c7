import mmap
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.index.sticky_map import WAYS, Sticky, StickyMap, bytes_for, fingerprint
from tests.support.processes import python_child

STORES_OF_A_PUT = 5


def new_map(entries: int = 1024) -> StickyMap:
    memory = memoryview(bytearray(bytes_for(entries)))
    StickyMap.prepare(memory)
    return StickyMap(memory)


def test_finds_what_was_put_and_nothing_else() -> None:
    stickies = new_map()
    assert stickies.find(stickies.hash_of("a")) is None
    stickies.put(stickies.hash_of("a"), (11,), 100)
    stickies.put(stickies.hash_of("b"), (12, 13), 101)
    assert stickies.find(stickies.hash_of("a")) == Sticky((11,), 100)
    assert stickies.find(stickies.hash_of("b")) == Sticky((12, 13), 101)
    assert stickies.find(stickies.hash_of("c")) is None


def test_a_second_put_takes_the_place_of_the_first() -> None:
    stickies = new_map(WAYS)
    others = [stickies.hash_of(str(other)) for other in range(WAYS - 1)]
    for other in others:
        stickies.put(other, (9,), 99)
    stickies.put(5, (11, 12), 100)
    stickies.put(5, (12,), 101)
    assert stickies.find(5) == Sticky((12,), 101)
    assert [stickies.find(other) for other in others] == [Sticky((9,), 99)] * len(others)


def test_a_touch_tells_that_a_key_is_in_use_and_changes_nothing_else() -> None:
    stickies = new_map()
    stickies.put(5, (11, 12), 100)
    stickies.touch(5, 170)
    stickies.touch(6, 170)
    assert stickies.find(5) == Sticky((11, 12), 170)
    assert stickies.find(6) is None


ACTIONS = st.lists(st.tuples(st.sampled_from(("put", "touch", "find")), st.integers(1, 12)), max_size=60)


@settings(deadline=None)
@given(ACTIONS)
def test_a_set_forgets_the_key_that_was_used_longest_ago(actions: list[tuple[str, int]]) -> None:
    stickies = new_map(WAYS)
    model: dict[int, Sticky] = {}
    for now, (action, key) in enumerate(actions, start=1):
        if action == "put":
            if key not in model and len(model) == WAYS:
                del model[min(model, key=lambda known: model[known].last_used)]
            model[key] = Sticky((100 + now,), now)
            stickies.put(key, (100 + now,), now)
        elif action == "touch":
            stickies.touch(key, now)
            if key in model:
                model[key] = model[key]._replace(last_used=now)
        assert {known: stickies.find(known) for known in range(1, 13)} == {
            known: model.get(known) for known in range(1, 13)
        }


@pytest.mark.parametrize(("wanted", "capacity"), [(8, 8), (1, 8), (15, 8), (16, 16), (1_000_000, 1_000_000)])
def test_holds_no_more_entries_than_asked_for(wanted: int, capacity: int) -> None:
    assert StickyMap(memoryview(bytearray(bytes_for(wanted)))).capacity == capacity


def test_keeps_the_newest_of_more_keys_than_fit() -> None:
    stickies = new_map(1024)
    keys = [stickies.hash_of(f"session-{index}") for index in range(5000)]
    for now, key in enumerate(keys):
        stickies.put(key, (7,), now)
    kept = [stickies.find(key) is not None for key in keys]
    assert 950 < sum(kept) <= 1024
    assert all(kept[-100:])
    assert sum(kept[:2000]) < 100


def test_counts_the_keys_in_use_by_the_worker_given_last() -> None:
    stickies = new_map()
    stickies.put(1, (11,), 100)
    stickies.put(2, (11, 12), 100)
    stickies.put(3, (12,), 90)
    stickies.put(4, (13,), 89)
    assert stickies.groups(0, now=100, max_idle_secs=10) == {11: 1, 12: 2}
    assert stickies.groups(0, now=100, max_idle_secs=1000) == {11: 1, 12: 2, 13: 1}
    assert stickies.groups(0, now=200, max_idle_secs=10) == {}


def test_the_parts_of_a_large_map_together_count_every_key() -> None:
    stickies = new_map(100_000)
    keys = [stickies.hash_of(str(index)) for index in range(20_000)]
    for index, key in enumerate(keys):
        stickies.put(key, (11 if index % 4 else 12,), 100)
    assert stickies.parts == 4
    counts = [stickies.groups(part, now=100, max_idle_secs=10) for part in range(stickies.parts)]
    kept = [key for key in keys if stickies.find(key) is not None]
    assert len(kept) > 19_990
    assert sum(sum(count.values()) for count in counts) == len(kept)
    assert [sum(count.values()) for count in counts] == [
        sum(stickies.part_of(key) == part for key in kept) for part in range(stickies.parts)
    ]


def test_hashes_depend_on_a_secret_of_the_map() -> None:
    memory = memoryview(bytearray(bytes_for(64)))
    StickyMap.prepare(memory)
    assert StickyMap(memory).hash_of("key") == StickyMap(memory).hash_of("key")
    assert new_map().hash_of("key") != new_map().hash_of("key")


def test_a_worker_keeps_its_fingerprint() -> None:
    assert fingerprint("w1") == 0x9A60A236294765AA
    assert fingerprint("w1") != fingerprint("w2")


class _KilledError(Exception):
    pass


class _Stores:
    """The entries as a process has them that is killed after so many stores."""

    def __init__(self, words: memoryview, left: int) -> None:
        self._words = words
        self._left = left

    def __getitem__(self, place: slice) -> memoryview:
        return self._words[place]

    def __setitem__(self, place: int, value: int) -> None:
        if not self._left:
            raise _KilledError
        self._left -= 1
        self._words[place] = value


@pytest.mark.parametrize("stores", range(STORES_OF_A_PUT))
@pytest.mark.parametrize("key", [3, 99], ids=["a key that is known", "a new key"])
def test_a_writer_killed_between_two_stores_leaves_no_wrong_pairing(key: int, stores: int) -> None:
    memory = memoryview(bytearray(bytes_for(WAYS)))
    stickies, killed = StickyMap(memory), StickyMap(memory)
    before = {known: Sticky((10 * known, 10 * known + 1), 100 + known) for known in range(1, WAYS + 1)}
    for known, sticky in before.items():
        stickies.put(known, sticky.workers, sticky.last_used)
    killed._entries = _Stores(killed._entries, stores)  # type: ignore[assignment] # stops where it is told to
    with pytest.raises(_KilledError):
        killed.put(key, (70, 71), 500)
    found = {known: stickies.find(known) for known in (*before, 99)}
    assert [known for known, sticky in found.items() if sticky is None] in ([key, 99], [99], [1, 99])
    assert all(sticky == before[known] for known, sticky in found.items() if sticky is not None)
    assert sum(stickies.groups(0, now=500, max_idle_secs=500).values()) == (WAYS if stores == 0 else WAYS - 1)
    # The entry is taken again, and nothing else is displaced.
    stickies.put(99, (72,), 501)
    assert stickies.find(99) == Sticky((72,), 501)
    assert [stickies.find(known) for known in before if known not in {1, key}] == [
        before[known] for known in before if known not in {1, key}
    ]


def test_a_put_takes_as_many_stores_as_were_tried_above() -> None:
    stickies = new_map()
    stickies._entries = _Stores(stickies._entries, STORES_OF_A_PUT)  # type: ignore[assignment]
    stickies.put(5, (11, 12), 100)
    with pytest.raises(_KilledError):
        stickies._entries[0] = 1


PUT = """
import mmap, sys
from extproc.index.sticky_map import StickyMap
stickies = StickyMap(memoryview(mmap.mmap(int(sys.argv[1]), 0)))
stickies.put(stickies.hash_of("session"), (11, 12), 100)
"""


def test_what_a_process_put_outlives_it() -> None:
    fd = os.memfd_create("stickies")
    os.ftruncate(fd, bytes_for(64))
    memory = memoryview(mmap.mmap(fd, 0))
    StickyMap.prepare(memory)
    with python_child(PUT, str(fd), pass_fds=(fd,)) as child:
        assert child.wait() == 0
    os.close(fd)
    stickies = StickyMap(memory)
    assert stickies.find(stickies.hash_of("session")) == Sticky((11, 12), 100)
