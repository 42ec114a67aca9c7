"""The token store: what was stored is found, whole or not at all, whatever happens to the memory under it."""

import fcntl
import os

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.shm.layout import Part
from extproc.shm.token_rows import Row
from extproc.shm.token_store import MIN_STORE_BYTES, TokenStore
from tests.support.processes import python_child
from tests.support.stores import BLOCK_SIZE, find, ids_of, is_prefix, key, make_segment, open_store, put

HOLD_THE_LOCK = """
import fcntl, sys
fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX, 1)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_prompt_is_found_by_any_of_its_keys() -> None:
    store = open_store(make_segment())
    ids = ids_of(1, 1000)
    put(store, ids, {1: 10, 2: 500, 3: 1000})
    assert is_prefix(find(store, 1), ids, 10)
    assert is_prefix(find(store, 2), ids, 500)
    assert is_prefix(find(store, 3), ids, 1000)
    assert find(store, 4) is None


@pytest.mark.parametrize("numbers", [[1, 2, 3, 4], [1, *range(100, 140), 3, *range(200, 240)]], ids=["few", "many"])
def test_the_last_of_several_keys_wins_and_those_that_are_there_are_told(numbers: list[int]) -> None:
    store = open_store(make_segment())
    ids = ids_of(1, 100)
    put(store, ids, {1: 10, 3: 60})
    keys = [key(number) for number in numbers]
    index, prefix = store.find_last(keys, block_size=16)
    assert numbers[index] == 3
    assert is_prefix(prefix, ids, 60)
    assert [number for number in numbers if store.has(key(number))] == [1, 3]
    assert store.find_last(keys[-1:], block_size=16) == (-1, None)


def test_what_one_process_stores_another_finds() -> None:
    segment = make_segment()
    writer, reader = open_store(segment), open_store(segment)
    ids = ids_of(1, 300)
    put(writer, ids, {1: 300})
    assert is_prefix(find(reader, 1), ids, 300)
    put(reader, ids_of(2, 50), {2: 50})
    assert is_prefix(find(writer, 2), ids_of(2, 50), 50)


def test_a_growing_prompt_stores_only_what_is_new() -> None:
    store = open_store(make_segment())
    ids = ids_of(1, 10_000)
    put(store, ids[:9000], {1: 9000})
    used = store.state().used_bytes
    for turn in range(1, 10):
        length = 9000 + 100 * turn
        put(store, ids[:length], {1 + turn: length}, parent=find(store, turn))
    assert store.state().used_bytes - used < 9 * (100 * 4 + 7 * 8 + 128)
    for turn in range(10):
        assert is_prefix(find(store, 1 + turn), ids, 9000 + 100 * turn)


def test_prompts_that_begin_alike_share_the_beginning() -> None:
    store = open_store(make_segment())
    first = ids_of(1, 5000)
    put(store, first, {1: 4000, 2: 5000})
    second = np.concatenate([first[:4000], ids_of(2, 77)])
    put(store, second, {3: 4077}, parent=find(store, 1))
    assert is_prefix(find(store, 2), first, 5000)
    assert is_prefix(find(store, 3), second, 4077)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 14_000, 300_000])
def test_a_prompt_of_any_length_is_stored(length: int) -> None:
    store = open_store(make_segment())
    ids = ids_of(length, length)
    put(store, ids, {1: length, 2: length // 2 + 1})
    assert is_prefix(find(store, 1), ids, length)
    assert is_prefix(find(store, 2), ids, length // 2 + 1)


def test_memory_is_bounded_and_what_was_used_last_stays() -> None:
    store = open_store(make_segment())
    kept = ids_of(0, 1000)
    put(store, kept, {0: 1000})
    for number in range(1, 3000):
        put(store, ids_of(number, 2000), {number: 2000})
        assert is_prefix(find(store, 0), kept, 1000), number
    state = store.state()
    assert state.used_bytes <= state.capacity_bytes < MIN_STORE_BYTES
    assert state.evictions > 0
    assert find(store, 200) is None
    assert is_prefix(find(store, 2999), ids_of(2999, 2000), 2000)


def test_a_prompt_whose_beginning_was_evicted_is_not_found() -> None:
    segment = make_segment()
    store, other = open_store(segment), open_store(segment)
    ids = ids_of(0, 1000)
    put(store, ids[:900], {1: 900})
    put(other, ids, {2: 1000}, parent=find(other, 1))
    for number in range(10, 3000):
        put(store, ids_of(number, 2000), {number: 2000})
        found = find(other, 2)
        assert found is None or is_prefix(found, ids, 1000)
    for number in range(3000, 6000):
        put(store, ids_of(number, 2000), {number: 2000})
    assert find(other, 1) is None
    assert find(other, 2) is None


def test_an_extent_that_took_the_place_of_a_beginning_is_not_taken_for_it() -> None:
    segment = make_segment()
    store, other = open_store(segment), open_store(segment)
    size = 900
    put(store, ids_of(0, size), {1: size})
    put(other, np.concatenate([ids_of(0, size), ids_of(1, 100)]), {2: size + 100}, parent=find(other, 1))
    put(other, ids_of(7, 10), {7: 10})
    assert find(other, 2) is not None
    # All of one size, so that they begin where others did; the chunk of the end is in use all the time.
    for number in range(10, 6000):
        put(store, ids_of(number, size), {number: size})
        assert find(other, 7) is not None
    assert store.state().evictions > 0
    assert find(other, 1) is None
    assert find(other, 2) is None


def test_a_flush_forgets_everything_for_every_process() -> None:
    segment = make_segment()
    store, other = open_store(segment), open_store(segment)
    put(store, ids_of(1, 100), {1: 100})
    assert other.flush()
    assert find(store, 1) is None
    assert store.state().used_bytes == 0
    put(store, ids_of(2, 100), {2: 100})
    assert is_prefix(find(other, 2), ids_of(2, 100), 100)


def test_nobody_waits_for_a_process_that_claims_a_chunk() -> None:
    segment = make_segment()
    store = open_store(segment)
    with python_child(HOLD_THE_LOCK, str(segment.fd), pass_fds=(segment.fd,)) as child:
        assert child.stdout is not None
        child.stdout.readline()
        put(store, ids_of(1, 100), {1: 100})
        assert store.unstored == 1
        assert not store.flush()
        child.kill()
        child.wait()
    put(store, ids_of(1, 100), {1: 100})
    assert is_prefix(find(store, 1), ids_of(1, 100), 100)


def test_a_lock_that_is_given_back_can_be_taken() -> None:
    segment = make_segment()
    put(open_store(segment), ids_of(1, 100), {1: 100})
    pid = os.fork()
    if not pid:
        try:
            fcntl.lockf(segment.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        except OSError:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_revoked_model_is_known_to_all() -> None:
    segment = make_segment()
    store, other = open_store(segment), open_store(segment)
    assert other.revoked() == frozenset()
    store.revoke(5)
    store.revoke(5)
    store.revoke(6)
    assert other.revoked() == {5, 6}


def test_every_store_has_a_secret_of_its_own() -> None:
    segment = make_segment()
    assert open_store(segment).secret == open_store(segment).secret != 0
    assert open_store(segment).secret != open_store(make_segment()).secret


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 24), st.integers(0, 255)), min_size=1, max_size=40
    )
)
def test_no_damage_to_the_memory_yields_wrong_ids(damage: list[tuple[float, int, int]]) -> None:
    segment = make_segment()
    store = open_store(segment)
    prompts = {number: ids_of(number, 40 + 37 * number) for number in range(1, 12)}
    grown = {}
    for number, ids in prompts.items():
        put(store, ids, {number: len(ids), 100 + number: 20})
        grown[200 + number] = np.concatenate([ids, ids_of(99, 50)])
        put(store, grown[200 + number], {200 + number: len(ids) + 50}, parent=find(store, number))
    memory = np.frombuffer(segment.part(Part.TOKEN_STORE), dtype=np.uint8)
    written = np.flatnonzero(memory)
    for where, length, value in damage:
        at = int(written[int(where * len(written))])
        memory[at : at + length] = value
    for number, ids in (prompts | grown).items():
        found = find(store, number)
        assert found is None or is_prefix(found, ids, len(ids))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6000), st.integers(0, 2)), max_size=60))
def test_any_order_of_use_by_several_processes_finds_only_what_was_stored(
    steps: list[tuple[int, int, int]],
) -> None:
    segment = make_segment()
    stores = [open_store(segment) for _ in range(3)]
    known: dict[int, np.ndarray[tuple[int], np.dtype[np.uint32]]] = {}
    for step, (source, length, process) in enumerate(steps, start=100):
        store = stores[process]
        parent = find(store, source)
        if parent is not None:
            assert is_prefix(parent, known[source], len(known[source]))
        ids = ids_of(step, length) if parent is None else np.concatenate([parent.ids, ids_of(step, length)])
        number = step % 31
        known[number] = ids
        put(store, ids, {number: len(ids)}, parent=parent)
        assert is_prefix(find(stores[(process + 1) % 3], number), ids, len(ids))


def damage_extent(store: TokenStore, row: Row) -> None:
    store._chunks_memory[row.chunk * store._chunk_bytes + row.offset + 8] ^= 1


def test_the_beginning_of_a_long_prompt_does_not_depend_on_its_end() -> None:
    store = open_store(make_segment())
    room = store.extent_tokens(BLOCK_SIZE)
    ids = ids_of(1, 2 * room + 100)
    lengths = {1: 2 * room, 2: 100, 3: len(ids), 4: 2 * room + 1, 5: room, 6: room + 1}
    put(store, ids, lengths)
    assert all(is_prefix(find(store, number), ids, length) for number, length in lengths.items())
    whole = find(store, 3)
    assert whole is not None
    damage_extent(store, whole.row)
    assert [number for number in lengths if find(store, number) is not None] == [1, 2, 5, 6]
    assert all(is_prefix(find(store, number), ids, lengths[number]) for number in (1, 2, 5, 6))


def test_an_extent_that_is_gone_is_read_once_however_many_keys_lead_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(make_segment())
    ids = ids_of(1, 1000)
    put(store, ids, {number: 500 + number for number in range(200)})
    found = find(store, 1)
    assert found is not None
    damage_extent(store, found.row)
    digest = xxhash.xxh3_64_intdigest
    checked: list[int] = []

    def counted(data: bytes, seed: int = 0) -> int:
        checked.append(len(data))
        return digest(data, seed=seed)

    monkeypatch.setattr(xxhash, "xxh3_64_intdigest", counted)
    assert store.find_last([key(number) for number in range(200)], block_size=BLOCK_SIZE) == (-1, None)
    assert sum(size > 4 * len(ids) for size in checked) == 1
