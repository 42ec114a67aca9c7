from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.config.fleet import WorkerSpec
from extproc.config.load import Lists
from extproc.config.model_list import MAX_MODELS, find_model_faults
from extproc.config.models import ModelSpec
from extproc.config.workers import MAX_WORKERS, find_worker_faults
from extproc.fleet.discovery.union import remaining, unite


def workers(*pairs: str) -> Lists:
    """Workers from words, `ADDRESS` or `ID@ADDRESS`; an address is a digit."""
    specs = []
    for pair in pairs:
        id_, _, digit = pair.rpartition("@")
        specs.append(WorkerSpec(address=f"10.0.0.{digit}:80", id=id_))
    return Lists(workers=tuple(specs))


def names(by_source: Iterable[frozenset[str]]) -> list[list[str]]:
    return [sorted(one) for one in by_source]


def test_sources_follow_each_other_in_order() -> None:
    assert unite([workers("2", "b@1"), workers(), workers("3")]).lists == workers("2", "b@1", "3")


def test_a_worker_of_two_sources_is_that_of_the_first() -> None:
    first, second = workers("a@1", "2"), workers("b@1", "a@3", "2", "4")
    union = unite([first, second])
    assert union.lists == workers("a@1", "2", "4")
    assert names(union.conflicts) == [[], ["10.0.0.2:80", "a", "b"]]


def test_the_address_of_one_may_be_the_id_of_another() -> None:
    first = Lists(workers=(WorkerSpec(address="10.0.0.1:80", id="10.0.0.2:80"),))
    assert names(unite([first, workers("2")]).conflicts) == [[], ["10.0.0.2:80"]]
    assert names(unite([workers("2"), first]).conflicts) == [[], ["10.0.0.2:80"]]


def test_models_share_no_name() -> None:
    first = Lists(models=(ModelSpec(name="m", aliases=("n",)),))
    second = Lists(models=(ModelSpec(name="o", lora_adapters=("n",)), ModelSpec(name="p")))
    union = unite([first, second])
    assert [model.name for model in union.lists.models] == ["m", "p"]
    assert names(union.conflicts) == [[], ["o"]]


def test_what_is_beyond_the_limits_is_that_of_the_last_sources() -> None:
    many = tuple(WorkerSpec(address=f"10.{n // 250}.1.{n % 250}:80") for n in range(MAX_WORKERS - 1))
    models = tuple(ModelSpec(name=f"m{n}") for n in range(MAX_MODELS))
    union = unite([Lists(many, models), workers("1", "2", "3"), Lists(models=(ModelSpec(name="x"),))])
    assert union.lists.workers == many + workers("1").workers
    assert union.lists.models == models
    assert names(union.too_many) == [[], ["10.0.0.2:80", "10.0.0.3:80"], ["x"]]


def test_what_no_source_has_remains() -> None:
    known = workers("a@1", "b@2", "3", "4")
    assert remaining(known, [workers("c@1"), workers("b@9", "3")]) == workers("4")
    assert remaining(known, []) == known


digits = st.sampled_from("123456")
one_source = st.lists(
    st.tuples(st.sampled_from(["", "a", "b", "c"]), digits), max_size=6, unique_by=(lambda pair: pair[1],)
).map(lambda pairs: workers(*(f"{id_}@{digit}" for id_, digit in pairs)))
model_lists = st.lists(st.sampled_from("mnopq"), max_size=3, unique=True).map(
    lambda names: Lists(models=tuple(ModelSpec(name=name) for name in names))
)


@given(st.lists(one_source | model_lists, max_size=5))
@settings(deadline=None)
def test_the_union_of_any_lists_is_in_order_and_leaves_nothing_out_unsaid(sources: list[Lists]) -> None:
    union = unite(sources)
    assert find_worker_faults(union.lists.workers) == []
    assert find_model_faults(union.lists.models) == []
    kept = [spec.id or spec.address for spec in union.lists.workers] + [spec.name for spec in union.lists.models]
    for lists, conflicts in zip(sources, union.conflicts, strict=True):
        for spec in lists.workers:
            name = spec.id or spec.address
            assert spec in union.lists.workers or name in conflicts
        assert {model.name for model in lists.models} <= {*kept, *conflicts}


def test_ranks_take_their_ids_and_their_room() -> None:
    ranked = Lists(workers=(WorkerSpec(address="10.0.0.1:80", id="a", data_parallel_size=2),))
    assert names(unite([ranked, workers("a/1@2", "a/2@3")]).conflicts) == [[], ["a/1"]]
    many = Lists(
        workers=tuple(WorkerSpec(address=f"10.0.1.{n}:80", id=f"s{n}", data_parallel_size=64) for n in range(16))
    )
    union = unite([workers("1"), many, workers("2")])
    assert names(union.too_many) == [[], ["s15"], []]
    assert sum(spec.data_parallel_size for spec in union.lists.workers) == 2 + 15 * 64
