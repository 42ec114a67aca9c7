"""KV-cache events on real sockets, read as a router reads them."""

import collections
import contextlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from tests.support.processes import wait_until
from tests.support.simulated_worker import SimulatedWorker, SimulatedWorkers, WorkerCalls
from tests.support.waiting import until
from workers.engine.events import Cleared, Removed, Stored
from workers.engine.request import Request
from workers.simulated.api.base import aligned_ids, token_ids
from workers.simulated.kv_events import Encoder, Publisher, is_bound

PROFILE = "step:\n  base_secs: 0.002\n  prefill_token_secs: 0.00001\nblock_size: 4\nkv_cache_tokens: 64\n"
END = b"\xff" * 8
Frames = list[bytes]


@pytest.fixture(scope="module")
def context() -> Iterator["zmq.Context[zmq.Socket[bytes]]"]:
    with zmq.Context() as context:
        yield context


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("profiles") / "profile.yaml"
    path.write_text(PROFILE)
    return str(path)


class Reader:
    """Subscribes to one worker and asks for replays."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", source: dict[str, Any]) -> None:
        self.subscriber = context.socket(zmq.SUB)
        self.subscriber.subscribe(source["topic"])
        self.subscriber.connect(source["endpoint"])
        self.dealer = context.socket(zmq.DEALER)
        self.dealer.connect(source["replay_endpoint"])
        self.batches: list[Frames] = []

    def close(self) -> None:
        self.subscriber.close(linger=0)
        self.dealer.close(linger=0)

    def drain(self) -> list[Frames]:
        """All batches that have come."""
        while self.subscriber.poll(0):
            self.batches.append(self.subscriber.recv_multipart())
        return self.batches

    def wait_for(self, condition: Callable[[list[Any]], bool]) -> list[Any]:
        """Wait until the events so far meet a condition; returns them."""
        wait_until(lambda: condition(self.events()), why=lambda: str(self.events()))
        return self.events()

    def events(self) -> list[Any]:
        return [event for frames in self.drain() for event in decode(frames)[1]]

    def replay(self, first: int) -> list[Frames]:
        """The batches from number ``first`` on, without the end mark."""
        self.dealer.send_multipart([b"", first.to_bytes(8, "big")])
        replayed: list[Frames] = []
        while True:
            assert self.dealer.poll(30_000), "no end mark"
            empty, *frames = self.dealer.recv_multipart()
            assert empty == b""
            if frames == [b"", END, b""]:
                return replayed
            replayed.append(frames)


def decode(frames: Frames) -> list[Any]:
    batch: list[Any] = msgspec.msgpack.decode(frames[2])
    return batch


def post(worker: WorkerCalls, **body: object) -> int:
    """Complete a prompt; returns how many of its tokens were cached."""
    status, answer = worker.call("POST", "/v1/completions", json.dumps({"max_tokens": 1, **body}).encode())
    assert status == 200, answer
    cached: int = json.loads(answer)["usage"]["prompt_tokens_details"]["cached_tokens"]
    return cached


def connected(context: "zmq.Context[zmq.Socket[bytes]]", worker: WorkerCalls) -> Reader:
    """A reader that is known to be served: it has seen the last batch that there is."""
    reader = Reader(context, json.loads(worker.call("GET", "/kv_event_sources")[1])["0"])
    numbers = iter(range(1000, 1 << 30, 4))

    def served() -> bool:
        first = next(numbers)
        post(worker, prompt=[first, first + 1, first + 2, first + 3, 0])
        return bool(reader.drain())

    wait_until(served, why="subscribed")
    return reader


@pytest.fixture(scope="module")
def worker(profile: str) -> Iterator[SimulatedWorker]:
    flags = (
        *("--profile", profile, "--lora", "ad1", "--kv-events-topic", "kv@w"),
        *("--kv-events-endpoint", "tcp://127.0.0.1:*", "--kv-events-replay-endpoint", "tcp://127.0.0.1:*"),
    )
    with SimulatedWorker.start(*flags) as worker:
        yield worker


@pytest.fixture
def reader(context: "zmq.Context[zmq.Socket[bytes]]", worker: SimulatedWorker) -> Iterator[Reader]:
    reader = connected(context, worker)
    yield reader
    reader.close()


def test_a_prompt_and_its_answer_are_told_block_by_block(worker: SimulatedWorker, reader: Reader) -> None:
    skipped = len(reader.events())
    post(worker, prompt="abcdefgh" * 3, max_tokens=8)
    ids = token_ids("abcdefgh" * 3) + list(memoryview(aligned_ids(8)).cast("I"))
    stored = [
        event
        for event in reader.wait_for(
            lambda events: (
                sum(len(one["block_hashes"]) for one in events[skipped:] if one["type"] == "BlockStored") == 3
            )
        )[skipped:]
        if event["type"] == "BlockStored"
    ]

    first = stored[0]
    assert list(first) == [
        "type", "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name",
        "extra_keys", "group_idx", "kv_cache_spec_kind",
    ]  # fmt: skip
    assert (first["parent_block_hash"], first["block_size"], first["medium"]) == (None, 4, "GPU")
    assert (first["lora_id"], first["lora_name"], first["extra_keys"]) == (None, None, [None])
    assert [token for event in stored for token in event["token_ids"]] == ids[:12]
    hashes = [value for event in stored for value in event["block_hashes"]]
    assert all(0 <= value < 1 << 64 for value in hashes)
    assert [event["parent_block_hash"] for event in stored[1:]] == [event["block_hashes"][-1] for event in stored[:-1]]


def test_frames_are_topic_number_and_payload_without_gaps(worker: SimulatedWorker, reader: Reader) -> None:
    for number in range(5):
        post(worker, prompt=[number] * 9)
    reader.wait_for(lambda events: len(events) >= 5)
    topics, numbers, payloads = zip(*reader.batches, strict=True)

    assert set(topics) == {b"kv@w"}
    first = int.from_bytes(numbers[0], "big")
    assert [int.from_bytes(number, "big") for number in numbers] == list(range(first, first + len(numbers)))
    for payload in payloads:
        seconds, events, rank = msgspec.msgpack.decode(payload)
        assert (isinstance(seconds, float), bool(events), rank) == (True, True, 0)


def test_a_replay_is_the_stream_again(worker: SimulatedWorker, reader: Reader) -> None:
    for number in range(10):
        post(worker, prompt=[100 + number] * 9, max_tokens=5)
    first = int.from_bytes(reader.batches[0][1], "big")
    whole = reader.replay(0)
    wait_until(lambda: len(reader.drain()) >= len(whole) - first, why="all batches")

    assert [int.from_bytes(frames[1], "big") for frames in whole] == list(range(len(whole)))
    assert reader.batches == whole[first:]
    assert reader.replay(first + 3) == whole[first + 3 :]
    assert reader.replay(len(whole)) == []


def test_a_request_for_replay_that_cannot_be_read_is_passed_over(reader: Reader) -> None:
    reader.dealer.send_multipart([b"", b"\0"])
    reader.dealer.send_multipart([b"x"])

    assert reader.replay(1 << 40) == []


def test_salts_and_adapters_are_named(worker: SimulatedWorker, reader: Reader) -> None:
    skipped = len(reader.events())
    post(worker, prompt="q" * 16 * 2, cache_salt="tenant-7")
    post(worker, prompt="q" * 16 * 2, cache_salt="tenant-7", model="ad1")
    events = reader.wait_for(lambda events: sum(event["type"] == "BlockStored" for event in events[skipped:]) == 2)[
        skipped:
    ]
    salted, adapted = (event for event in events if event["type"] == "BlockStored")

    assert (salted["extra_keys"], salted["lora_name"], salted["lora_id"]) == ([["tenant-7"], None], None, None)
    assert (adapted["extra_keys"], adapted["lora_name"], adapted["lora_id"]) == (
        [["ad1", "tenant-7"], ["ad1"]], "ad1", 1,
    )  # fmt: skip
    assert salted["token_ids"] == adapted["token_ids"]
    assert not set(salted["block_hashes"]) & set(adapted["block_hashes"])


def test_counting_copies_tells_what_is_cached(worker: SimulatedWorker, reader: Reader) -> None:
    assert worker.call("POST", "/reset_prefix_cache")[0] == 200
    for number in range(12):
        post(worker, prompt=[200 + number] * 17)
    last = [[200 + number] * 16 for number in (11, 10)]
    reader.wait_for(lambda events: any(event.get("token_ids") == last[0] for event in events))
    copies: collections.Counter[int] = collections.Counter()
    hashes = {}
    for event in reader.events():
        if event["type"] == "AllBlocksCleared":
            assert event == {"type": "AllBlocksCleared"}
            copies.clear()
        elif event["type"] == "BlockRemoved":
            assert event == {
                "type": "BlockRemoved", "block_hashes": event["block_hashes"], "medium": "GPU", "group_idx": 0,
            }  # fmt: skip
            assert len(event["block_hashes"]) == 1
            copies.subtract(event["block_hashes"])
        else:
            copies.update(event["block_hashes"])
            hashes[tuple(event["token_ids"])] = event["block_hashes"]

    # The cache has 16 blocks and each prompt takes five of them, of which four are whole.
    assert set(copies.values()) == {0, 1}
    assert 8 <= copies.total() <= 16
    assert all(copies[value] == 1 for ids in last for value in hashes[tuple(ids)])
    assert not any(copies[value] for value in hashes[(200,) * 16])


class Follower:
    """A router's record of one cache, made of events alone: copies of blocks by all the tokens up to their end."""

    def __init__(self) -> None:
        self.copies: collections.Counter[tuple[int, ...]] = collections.Counter()
        self._prefixes: dict[int, tuple[int, ...]] = {}

    def apply(self, event: dict[str, Any]) -> None:
        if event["type"] == "AllBlocksCleared":
            self.copies.clear()
        elif event["type"] == "BlockRemoved":
            self.copies[self._prefixes[event["block_hashes"][0]]] -= 1
        else:
            prefix = () if event["parent_block_hash"] is None else self._prefixes[event["parent_block_hash"]]
            for place, block_hash in enumerate(event["block_hashes"]):
                prefix += tuple(event["token_ids"][place * 4 : place * 4 + 4])
                self._prefixes[block_hash] = prefix
                self.copies[prefix] += 1

    def predict(self, ids: list[int]) -> int:
        """Tokens of a prompt that are cached."""
        ends = range(4, len(ids), 4)
        return next((end - 4 for end in ends if self.copies[tuple(ids[:end])] <= 0), len(ends) * 4)


def test_what_a_prompt_will_find_cached_can_be_told_from_events_alone(worker: SimulatedWorker, reader: Reader) -> None:
    rng, follower, position = random.Random(5), Follower(), 0
    documents = [[rng.randrange(1 << 20) for _ in range(rng.choice([8, 17, 24]))] for _ in range(4)]
    found = collections.Counter[int]()
    for _ in range(150):
        for frames in reader.replay(position):
            position += 1
            for event in decode(frames)[1]:
                follower.apply(event)
        ids = rng.choice(documents) + [rng.randrange(3) for _ in range(rng.randrange(10))]
        expected = follower.predict(ids)
        assert post(worker, prompt=ids, max_tokens=rng.choice([1, 3, 9])) == expected
        found[expected] += 1

    assert len(found) >= 4


def test_several_workers_have_endpoints_by_number(
    context: "zmq.Context[zmq.Socket[bytes]]", profile: str, tmp_path: Path
) -> None:
    endpoint = f"ipc://{tmp_path}/{{n}}"
    flags = ("--profile", profile, "--kv-events-endpoint", endpoint, "--kv-events-topic", "kv-{n}")
    with SimulatedWorkers.start(*flags, "--kv-events-replay-endpoint", endpoint + "r", workers=2) as fleet:
        for number, one in enumerate(fleet.workers):
            source = json.loads(one.call("GET", "/kv_event_sources")[1])["0"]
            assert source == {
                "enable_kv_cache_events": True,
                "publisher": "zmq",
                "endpoint": f"ipc://{tmp_path}/{number}",
                "replay_endpoint": f"ipc://{tmp_path}/{number}r",
                "topic": f"kv-{number}",
                "buffer_steps": 10_000,
                "hwm": 100_000,
                "max_queue_size": 100_000,
            }
            reader = connected(context, one)
            assert reader.batches[0][0] == b"kv-%d" % number
            reader.close()
        assert fleet.stop() == 0


def test_a_worker_connects_to_a_router_that_binds(context: "zmq.Context[zmq.Socket[bytes]]", profile: str) -> None:
    with context.socket(zmq.SUB) as subscriber:
        subscriber.subscribe("")
        port = subscriber.bind_to_random_port("tcp://127.0.0.1")
        flags = ("--profile", profile, "--kv-events-endpoint", f"tcp://127.0.0.1:{port}")
        with SimulatedWorker.start(*flags) as worker:
            numbers = iter(range(1 << 30))

            def served() -> bool:
                post(worker, prompt=[next(numbers)] * 5)
                return bool(subscriber.poll(0))

            wait_until(served, why="connected")


def test_without_events_there_are_no_sources(profile: str) -> None:
    with SimulatedWorker.start("--profile", profile) as worker:
        assert worker.call("GET", "/kv_event_sources") == (200, b"{}")


def test_an_endpoint_that_is_taken_ends_the_start(profile: str, tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/none/x"
    with pytest.raises(AssertionError, match=r"status 3.*none/x"):
        SimulatedWorker.start("--profile", profile, "--kv-events-endpoint", endpoint)


@pytest.mark.parametrize(
    ("endpoint", "bound"),
    [
        ("tcp://*:5557", True),
        ("tcp://[::]:5557", True),
        ("ipc:///run/kv", True),
        ("inproc://kv", True),
        ("tcp://127.0.0.1:5557", False),
    ],
)
def test_endpoints_are_bound_as_by_vllm(endpoint: str, *, bound: bool) -> None:
    assert is_bound(endpoint) == bound


def test_events_are_worded_with_their_slices_of_the_tokens() -> None:
    request = Request(prompt_tokens=9, answer_tokens=0, hashes=(11, 22), on_first=print, on_end=print, tokens=range(9))
    batch = Encoder(block_size=4, loras=()).batch([Stored(request, 1, 1), Removed(7), Cleared()], now=1.5)

    time, (stored, removed, cleared), rank = msgspec.msgpack.decode(batch)
    assert (time, rank) == (1.5, 0)
    assert (stored["block_hashes"], stored["parent_block_hash"], stored["token_ids"]) == ([22], 11, [4, 5, 6, 7])
    assert (removed["type"], removed["block_hashes"]) == ("BlockRemoved", [7])
    assert cleared == {"type": "AllBlocksCleared"}


async def test_a_subscriber_that_does_not_read_makes_drops_that_are_counted(
    context: "zmq.Context[zmq.Socket[bytes]]", tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    drops: list[int] = []
    publisher = Publisher(
        context=context,
        encoder=Encoder(block_size=4, loras=()),
        endpoint="inproc://slow",
        replay_endpoint="",
        topic="",
        buffer_steps=1,
        hwm=2,
        on_drop=lambda: drops.append(1),
    )
    with contextlib.closing(publisher), context.socket(zmq.SUB) as subscriber:
        subscriber.set_hwm(2)
        subscriber.subscribe("")
        subscriber.connect("inproc://slow")

        async def dropped() -> bool:
            publisher.publish([Cleared()], now=0.0)
            return len(drops) >= 2

        await until(dropped)

    assert caplog.text.count("too slow") == 1


async def test_a_publisher_that_cannot_bind_its_replay_leaves_nothing_open(
    context: "zmq.Context[zmq.Socket[bytes]]",
) -> None:
    with pytest.raises(OSError, match="nowhere"):
        Publisher(
            context=context,
            encoder=Encoder(block_size=4, loras=()),
            endpoint="inproc://kv",
            replay_endpoint="nowhere://x",
            topic="",
            buffer_steps=1,
            hwm=1,
            on_drop=print,
        )
    with context.socket(zmq.PUB) as again:

        async def bound() -> bool:
            # ZMQ lets go of a closed socket's address when its own thread gets to it.
            try:
                again.bind("inproc://kv")
            except zmq.ZMQError:
                return False
            return True

        await until(bound)
