"""The cache changes what a prompt costs and nothing else: whether cached or not, its ids and hashes are the same.

The tokenizers of the tests are real ones; how they are loaded is not the subject here.
"""

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extproc.index.block_hash import block_hashes
from extproc.models.model import Model
from extproc.shm.token_store import MAX_DEPTH, TokenStore
from extproc.tokens.boundaries import Boundaries
from extproc.tokens.prompt_cache import MAX_KEPT_BOUNDARIES, TAIL_BYTES, Namespace, PromptCache, namespace_key
from extproc.tokens.prompt_tokens import PromptTokens
from tests.support.readers import Reading, make_spec
from tests.support.stores import make_segment, open_store

NAMESPACE = Namespace(b"namespace", 5, 16)
TURN = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
WORDS = ("alpha", "beta", " gamma", "\n", "naïve", "日本", "42", "<|im_end|>", "<|im_", "😀", "")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    spec = make_spec(tmp_path_factory.mktemp("models"), "qwen")
    found = Reading(spec, store=open_store(make_segment())).shelf.find("qwen")
    assert found is not None
    assert found.model is not None
    return found.model


def cache_of(
    model: Model, store: TokenStore | None, boundaries: Boundaries | None = None, *, min_prefix_bytes: int = 0
) -> PromptCache:
    return PromptCache(
        store=store,
        encoder=model.backend.encoder,
        boundaries=boundaries or model.cache.boundaries,
        min_prefix_bytes=min_prefix_bytes,
    )


def read(cache: PromptCache, text: str, namespace: Namespace = NAMESPACE) -> PromptTokens:
    encoding = cache.begin(text, namespace)
    return encoding.known or encoding.finish(encoding.encode())


def expect_same(one: PromptTokens, other: PromptTokens) -> None:
    assert one.ids.tolist() == other.ids.tolist()
    assert one.block_hashes.tolist() == other.block_hashes.tolist()


def turns(count: int, *, seed: int = 1) -> list[str]:
    """A conversation after each of its turns."""
    rng = random.Random(seed)
    texts, text = [], ""
    for _ in range(count):
        text += TURN.format(" ".join(rng.choices(WORDS[:6], k=60)))
        texts.append(text)
    return texts


def test_a_known_prompt_is_not_encoded(model: Model) -> None:
    cache = cache_of(model, open_store(make_segment()))
    first = read(cache, turns(3)[-1])
    again = read(cache, turns(3)[-1])
    assert (first.cache, again.cache) == ("miss", "level_0")
    assert again.reused_bytes == again.text_bytes == len(turns(3)[-1].encode())
    expect_same(first, again)


def test_of_a_grown_conversation_only_the_new_turn_is_encoded(model: Model) -> None:
    cache = cache_of(model, open_store(make_segment()))
    plain = cache_of(model, None)
    known = 0
    for text in turns(20):
        encoding = cache.begin(text, NAMESPACE)
        tokens = encoding.finish(encoding.encode())
        assert known - tokens.reused_bytes <= len("<|im_start|>assistant\n")
        expect_same(tokens, read(plain, text))
        known = len(text.encode())


def test_every_turn_end_is_an_entry_also_of_what_was_put_together_from_a_hit(model: Model) -> None:
    cache = cache_of(model, open_store(make_segment()))
    conversation = turns(6)
    for text in conversation:
        read(cache, text)
    for end in conversation:
        branch = read(cache, end + "another way to go on<|im_end|>")
        assert branch.cache == "level_1"
        assert len(end.encode()) - branch.reused_bytes <= len("assistant\n")


def test_a_beginning_that_is_first_seen_late_is_shared_by_others(model: Model) -> None:
    cache = cache_of(model, open_store(make_segment()))
    for number in range(20):
        read(cache, turns(2, seed=number)[-1])
    system = f"<|im_start|>system\n{'Be helpful, and never lie. ' * 500}<|im_end|>\n"
    read(cache, system + turns(1, seed=100)[0])
    for user in range(101, 105):
        tokens = read(cache, system + turns(1, seed=user)[0])
        assert tokens.reused_bytes >= len(system) - 2
        expect_same(tokens, read(cache_of(model, None), system + turns(1, seed=user)[0]))


def test_namespaces_share_nothing(model: Model) -> None:
    cache = cache_of(model, open_store(make_segment()))
    text = turns(3)[-1]
    first = read(cache, text)
    other = read(cache, text, NAMESPACE._replace(key=b"another", root=6))
    assert other.cache == "miss"
    assert first.ids.tolist() == other.ids.tolist()
    assert not set(first.block_hashes.tolist()) & set(other.block_hashes.tolist())


def test_a_prefix_is_no_whole_prompt_and_a_whole_prompt_no_prefix(model: Model) -> None:
    cache = cache_of(model, open_store(make_segment()))
    read(cache, "<|im_start|>a<|im_end|>rest")
    # Up to its last boundary the text is known, but as a prompt of its own it is not.
    assert read(cache, "<|im_start|>a<|im_end|>").cache == "level_1"
    read(cache, "ends without a boundary")
    assert read(cache, "ends without a boundary, goes on").cache == "miss"


@pytest.mark.parametrize("count", [1, 17, 16 * 40])
def test_ids_around_a_text_are_part_of_the_prompt(model: Model, count: int) -> None:
    before, after = np.arange(count, dtype=np.uint32), np.arange(7, 7 + count, dtype=np.uint32)
    text = turns(4)[-1]
    plain = model.backend.encoder.encode(text)
    whole = np.concatenate([before, plain, after])
    for cache in (cache_of(model, None), cache_of(model, open_store(make_segment()))):
        for _ in range(2):
            encoding = cache.begin(text, NAMESPACE, before=before, after=after)
            tokens = encoding.known or encoding.finish(encoding.encode())
            assert tokens.ids.tolist() == whole.tolist()
            assert tokens.block_hashes.tolist() == block_hashes(whole, block_size=16, before=5).tolist()
        encoding = cache.begin(text + "more", NAMESPACE, before=before, after=after)
        tokens = encoding.finish(encoding.encode())
        longer = np.concatenate([before, model.backend.encoder.encode(text + "more"), after])
        assert tokens.ids.tolist() == longer.tolist()
        assert tokens.block_hashes.tolist() == block_hashes(longer, block_size=16, before=5).tolist()


def test_a_key_by_other_means_leads_to_the_prompt(model: Model) -> None:
    cache = cache_of(model, open_store(make_segment()))
    key = cache.key_of((b"raw", b"request"), NAMESPACE)
    assert cache.find(key, NAMESPACE) is None
    encoding = cache.begin(turns(2)[-1], NAMESPACE, key=key)
    tokens = encoding.finish(encoding.encode())
    found = cache.find(key, NAMESPACE)
    assert found is not None
    assert found.cache == "level_0"
    expect_same(found, tokens)
    # Another request that renders to the same text is known by its own key from then on.
    other = cache.key_of((b"rawrequest",), NAMESPACE)
    assert cache.begin(turns(2)[-1], NAMESPACE, key=other).known is not None
    found = cache.find(other, NAMESPACE)
    assert found is not None
    expect_same(found, tokens)


def test_keys_depend_on_how_the_parts_are_cut() -> None:
    cases = [(), (b"",), (b"", b""), (b"ab",), (b"a", b"b"), (b"a", b"", b"b"), (b"ab", b"")]
    assert len({namespace_key(parts) for parts in cases}) == len(cases)


def test_a_long_conversation_does_not_become_a_long_chain(model: Model) -> None:
    store = open_store(make_segment())
    cache, plain = cache_of(model, store), cache_of(model, None)
    for text in turns(4 * MAX_DEPTH):
        encoding = cache.begin(text, NAMESPACE)
        assert encoding._prefix is None or encoding._prefix.depth <= MAX_DEPTH
        expect_same(encoding.finish(encoding.encode()), read(plain, text))


@pytest.mark.parametrize("turn", [40, 4 * TAIL_BYTES // 5], ids=["small turns", "turns longer than the tail"])
def test_a_long_conversation_is_known_by_its_end_and_by_any_earlier_turn(model: Model, turn: int) -> None:
    store = open_store(make_segment())
    cache, plain = cache_of(model, store), cache_of(model, None)
    texts = [TURN.format("a long beginning " * TAIL_BYTES)]
    for number in range(2 * MAX_DEPTH):
        texts.append(texts[-1] + TURN.format(f"{number} " + "word " * (turn // 5)))
    for before, text in zip(["", *texts], texts, strict=False):
        tokens = read(cache, text)
        assert len(before.encode()) - tokens.reused_bytes <= len("<|im_start|>assistant\n")
        expect_same(tokens, read(plain, text))
    assert cache.mismatched_boundaries == 0
    for end in texts[::5]:
        branch = end + "elsewhere" + "x" * 3 * TAIL_BYTES
        tokens = read(cache, branch)
        assert len(end.encode()) - tokens.reused_bytes <= len("assistant\n")
        expect_same(tokens, read(plain, branch))


def test_a_text_full_of_boundaries_becomes_a_bounded_number_of_entries(model: Model) -> None:
    store = open_store(make_segment())
    cache, plain = cache_of(model, store), cache_of(model, None)
    text = "<|im_end|>x" * (3 * MAX_KEPT_BOUNDARIES)
    expect_same(read(cache, text), read(plain, text))
    assert store.state().rows <= MAX_KEPT_BOUNDARIES + 1
    for longer in (text + "y", text + "<|im_end|>" * 5, text[: len(text) // 600 * 11]):
        tokens = read(cache, longer)
        assert tokens.cache == "level_1"
        expect_same(tokens, read(plain, longer))


def test_text_and_ids_that_disagree_on_boundaries_leave_no_prefixes(model: Model) -> None:
    wrong = Boundaries([token._replace(content="alpha") for token in model.cache.boundaries.tokens[:1]])
    store = open_store(make_segment())
    cache = cache_of(model, store, wrong)
    read(cache, "alpha beta alpha gamma")
    assert cache.mismatched_boundaries == 1
    assert store.state().rows == 1
    assert read(cache, "alpha beta alpha gamma, and more").cache == "miss"


def test_entries_that_were_lost_come_back(model: Model) -> None:
    store = open_store(make_segment())
    cache = cache_of(model, store)
    conversation = turns(5)
    for text in conversation[:4]:
        read(cache, text)
    encoding = cache.begin(conversation[4], NAMESPACE)
    # Every row but that of the hit is overwritten, as other prompts would do.
    kept = encoding._keys[encoding._hit]
    table = store._rows._table
    rows = table.reshape(-1, table.shape[-1])
    rows[~((rows[:, 0] == kept[0]) & (rows[:, 1] == kept[1]))] = 0
    read(cache, conversation[4])
    assert read(cache, conversation[1] + "elsewhere").reused_bytes >= len(conversation[0].encode())


@pytest.mark.parametrize(
    ("begin", "times", "reused"),
    [("short", 1, True), ("short", 20, False), ("a longer one " * 50, 1, True), ("a longer one " * 50, 20, True)],
    ids=["a good part of a short text", "little of a text", "a good part of a text", "little, and long enough"],
)
def test_a_short_prefix_is_used_only_where_it_is_a_good_part_of_the_text(
    model: Model, begin: str, times: int, reused: bool
) -> None:
    cache = cache_of(model, open_store(make_segment()), min_prefix_bytes=512)
    plain = cache_of(model, None)
    known = TURN.format(begin)
    read(cache, known)
    text = known + times * known.replace("<|", "<")
    tokens = read(cache, text)
    assert tokens.cache == ("level_1" if reused else "miss")
    expect_same(tokens, read(plain, text))
    # What was encoded anew is known from then on, with all of its boundaries.
    end = text + "<|im_end|>"
    read(cache, end)
    for longer in (end + " and on", known + " another way"):
        again = read(cache, longer)
        assert again.cache == "level_1"
        expect_same(again, read(plain, longer))
    assert cache.mismatched_boundaries == 0


def test_pieces_of_a_text_are_the_text(model: Model) -> None:
    pieces = ["<|im_start|>", "naïve", "", " 日本", "<|im_end|>", "ascii"]
    cache = cache_of(model, open_store(make_segment()))
    encoding = cache.begin(pieces, NAMESPACE)
    expect_same(encoding.finish(encoding.encode()), read(cache_of(model, None), "".join(pieces)))
    assert read(cache, "".join(pieces)).cache == "level_0"
    longer = cache.begin([*pieces, " and more"], NAMESPACE)
    assert longer.reused_bytes
    expect_same(longer.finish(longer.encode()), read(cache_of(model, None), "".join(pieces) + " and more"))


def test_a_prefix_of_another_length_than_its_key_stands_for_is_not_used(model: Model) -> None:
    """As two texts with one hash would leave it."""
    cache = cache_of(model, open_store(make_segment()))
    text = turns(2)[-1]
    encoding = cache.begin(text, NAMESPACE)
    ids = np.arange(40, dtype=np.uint32)
    assert cache.store is not None
    cache.store.put(
        parent=None,
        depth=0,
        ids=ids,
        hashes=block_hashes(ids, block_size=NAMESPACE.block_size, before=NAMESPACE.root),
        block_size=NAMESPACE.block_size,
        keys=encoding._keys[-2:-1],
        tokens=[len(ids)],
        sizes=[7],
    )
    tokens = read(cache, text)
    assert tokens.cache == "miss"
    expect_same(tokens, read(cache_of(model, None), text))


def test_lone_surrogates_are_refused(model: Model) -> None:
    with pytest.raises(UnicodeEncodeError):
        cache_of(model, None).begin("\ud800", NAMESPACE)


pieces = st.lists(st.sampled_from(WORDS) | st.text(max_size=8), max_size=12).map("".join)
prompts = st.lists(pieces, min_size=1, max_size=6).map(lambda parts: "".join(TURN.format(part) for part in parts))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(base=st.lists(prompts, min_size=1, max_size=4), data=st.data())
def test_cached_is_uncached_in_any_order_of_requests(model: Model, base: list[str], data: st.DataObject) -> None:
    segment = make_segment()
    # Processes may differ in what they keep while their settings are changed.
    caches = [cache_of(model, open_store(segment), min_prefix_bytes=size) for size in (0, 0, 1024)]
    plain = cache_of(model, None)
    texts = [*base, *(one + other for one in base for other in base)]
    for _ in range(data.draw(st.integers(1, 14))):
        text = data.draw(st.sampled_from(texts)) + data.draw(st.sampled_from(["", "x", " ", "<|im_end|>", "\u0301"]))
        tokens = read(data.draw(st.sampled_from(caches)), text)
        expect_same(tokens, read(plain, text))
        assert tokens.reused_bytes <= tokens.text_bytes == len(text.encode())
