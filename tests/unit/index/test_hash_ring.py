import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.index.hash_ring import HashRing, points_of

NODES = 150
NAMES = st.lists(st.text(max_size=12), unique=True, max_size=9)
KEYS = st.integers(0, 2**64 - 1)


def ring(names: list[str], virtual_nodes: int = 20) -> HashRing:
    return HashRing(names, [points_of(name, virtual_nodes) for name in names])


def walk(names: list[str], key: int, virtual_nodes: int = 20) -> list[str]:
    return [names[position] for position in ring(names, virtual_nodes).walk(key)]


@settings(deadline=None)
@given(NAMES, KEYS)
def test_a_walk_meets_everybody_once_by_distance_from_the_key(names: list[str], key: int) -> None:
    distance = {name: min((int(point) - key) % 2**64 for point in points_of(name, 20)) for name in names}
    assert walk(names, key) == sorted(names, key=distance.__getitem__)


@settings(deadline=None)
@given(NAMES.filter(bool), KEYS, st.data())
def test_removing_a_name_moves_only_its_keys(names: list[str], key: int, data: st.DataObject) -> None:
    """For every fall-back too: the walk without it is the walk of the ring without it."""
    removed = data.draw(st.sampled_from(names))
    left = [name for name in names if name != removed]
    assert walk(left, key) == [name for name in walk(names, key) if name != removed]


@settings(deadline=None)
@given(NAMES, KEYS)
def test_the_order_of_the_names_does_not_matter(names: list[str], key: int) -> None:
    assert walk(names, key) == walk(names[::-1], key)


def test_a_key_on_a_point_goes_to_its_owner_and_one_past_the_last_to_the_first() -> None:
    names = ["a", "b", "c"]
    points = sorted((int(point), name) for name in names for point in points_of(name, 20))
    assert all(walk(names, point)[0] == name for point, name in points)
    assert walk(names, points[-1][0] + 1)[0] == points[0][1]
    assert walk(names, points[0][0] + 2**64)[0] == points[0][1]


def test_more_virtual_nodes_leave_the_points_where_they_are() -> None:
    assert points_of("a", 40)[:20].tolist() == points_of("a", 20).tolist()


def test_every_worker_gets_about_the_same_share_of_the_keys() -> None:
    names = [f"10.0.0.{index}:8000" for index in range(10)]
    keys = np.random.default_rng(5).integers(0, 2**64, 20_000, dtype=np.uint64).tolist()
    whole = ring(names, NODES)
    counts = np.bincount([next(whole.walk(key)) for key in keys], minlength=10)
    assert counts.min() > 0.7 * counts.mean()
    assert counts.max() < 1.3 * counts.mean()


def test_the_keys_of_a_removed_worker_are_spread_over_the_others() -> None:
    names = [f"10.0.0.{index}:8000" for index in range(10)]
    keys = np.random.default_rng(6).integers(0, 2**64, 20_000, dtype=np.uint64).tolist()
    whole = ring(names, NODES)
    seconds = [order[1] for key in keys if (order := list(whole.walk(key)))[0] == 0]
    counts = np.bincount(seconds, minlength=10)
    assert counts[0] == 0
    assert counts[1:].min() > 0.2 * counts.sum() / 9
    assert counts.max() < 2 * counts.sum() / 9


def test_nobody_is_met_on_an_empty_ring() -> None:
    assert list(ring([]).walk(5)) == []
