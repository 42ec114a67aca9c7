"""Subscriptions on real sockets, to publishers of the tests and to simulated workers."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from extproc.config.kv_events import KvEventsSettings
from extproc.kvevents.decode import decode_batch
from extproc.kvevents.events import BlockStored
from extproc.kvevents.sources import EventSource, ask_models, ask_sources
from extproc.kvevents.stream import Position, Problem
from extproc.kvevents.subscriber import Subscription, Subscriptions
from tests.support.kv_publisher import KvPublisher, Message
from tests.support.simulated_worker import SimulatedWorker
from tests.support.waiting import until

SETTINGS = KvEventsSettings(replay_timeout_secs=0.5, replay_attempts=3)
PROFILE = "step:\n  base_secs: 0.002\n  prefill_token_secs: 0.00001\nblock_size: 4\nkv_cache_tokens: 1024\n"
ANY = "tcp://127.0.0.1:*"


class Kept:
    """Remembers what was delivered since the last reset."""

    def __init__(self) -> None:
        self.resets: list[bool] = []
        self.payloads: list[bytes] = []
        self.problems: list[Problem] = []
        self.details: list[str] = []
        self.then: Callable[[], object] = bool

    def batches(self, payloads: Sequence[bytes]) -> None:
        self.payloads += payloads
        self.then()

    def reset(self, *, complete: bool) -> None:
        self.resets.append(complete)
        self.payloads = []

    def problem(self, problem: Problem, detail: str) -> None:
        self.problems.append(problem)
        self.details.append(detail)

    @property
    def tokens(self) -> list[int]:
        """All tokens that were announced."""
        return [
            token
            for payload in self.payloads
            for event in decode_batch(payload).events
            if isinstance(event, BlockStored)
            for token in event.token_ids
        ]


class Stage:
    """Subscriptions and the publishers that they follow."""

    def __init__(self) -> None:
        self.subscriptions = Subscriptions(settings=SETTINGS, clock=time.monotonic)
        self.publishers: list[KvPublisher] = []

    def publisher(
        self, *, endpoint: str = ANY, replay: str = ANY, topic: str = "", connect: bool = False
    ) -> KvPublisher:
        publisher = KvPublisher(endpoint, replay_endpoint=replay, topic=topic, connect=connect)
        self.publishers.append(publisher)
        return publisher

    def follow(
        self, publisher: KvPublisher, *, endpoint: str = "", topic: str = "", position: Position | None = None
    ) -> tuple[Kept, Subscription]:
        kept = Kept()
        # The engine's own words: with a star where it binds.
        words = endpoint or publisher.endpoint.replace("127.0.0.1", "*")
        source = EventSource(words, publisher.replay_endpoint, topic, 0)
        return kept, self.subscriptions.follow(source, host="127.0.0.1", sink=kept, position=position)

    async def wait(self, condition: Callable[[], bool]) -> None:
        async def holds() -> bool:
            for publisher in self.publishers:
                publisher.pump()
            return condition()

        await until(holds)

    async def follow_live(self, publisher: KvPublisher, *, topic: str = "") -> tuple[Kept, Subscription]:
        """Follow, and return once live batches come."""
        kept, subscription = self.follow(publisher, topic=topic)
        await self.wait(lambda: topic.encode() in publisher.subscribed and bool(kept.resets) and subscription.synced)
        publisher.publish()
        await self.wait(lambda: kept.payloads == publisher.sent)
        return kept, subscription

    def close(self) -> None:
        self.subscriptions.close()
        for publisher in self.publishers:
            publisher.__exit__(None, None, None)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_what_was_before_is_replayed_and_what_comes_is_read_in_order(stage: Stage) -> None:
    publisher = stage.publisher()
    for _ in range(1000):
        publisher.make()
    kept, subscription = stage.follow(publisher)
    await stage.wait(lambda: len(kept.payloads) == 1000 and subscription.synced)
    for _ in range(3000):
        publisher.publish()
    await stage.wait(lambda: len(kept.payloads) == 4000)

    assert (kept.payloads, kept.resets[-1], kept.problems) == (publisher.sent, True, [])
    assert subscription.position is not None
    assert (subscription.position.sequence, subscription.counts.lost) == (3999, 0)


async def test_skipped_batches_are_fetched_through_answers_with_holes(stage: Stage) -> None:
    publisher = stage.publisher()
    kept, subscription = await stage.follow_live(publisher)
    rounds = iter(range(2, 100))

    def holed(messages: list[Message]) -> list[Message]:
        return messages[: next(rounds)] + messages[-2:]

    publisher.lossy = holed
    for _ in range(8):
        publisher.make()
    publisher.publish()
    await stage.wait(lambda: kept.payloads == publisher.sent and subscription.synced)

    assert kept.problems == []
    assert len(publisher.questions) > 3


async def test_without_an_answer_what_is_missing_is_given_up(stage: Stage) -> None:
    publisher = stage.publisher()
    kept, subscription = await stage.follow_live(publisher)
    publisher.lossy = lambda messages: messages[:1]
    publisher.make()
    publisher.publish()
    await stage.wait(lambda: subscription.synced and bool(kept.problems))

    assert (kept.problems, kept.payloads, kept.resets[-1]) == ([Problem.REPLAY], publisher.sent[2:], False)


async def test_without_a_replay_endpoint_a_gap_is_told_and_the_stream_goes_on(stage: Stage) -> None:
    publisher = stage.publisher(replay="")
    kept, subscription = stage.follow(publisher)
    await stage.wait(lambda: b"" in publisher.subscribed)
    publisher.publish()
    publisher.make()
    publisher.publish()
    await stage.wait(lambda: kept.payloads == publisher.sent[2:])

    assert (kept.resets, kept.problems, subscription.counts.lost) == ([True, False], [Problem.GAP], 1)


async def test_frames_that_are_no_batch_are_told_and_passed_over(stage: Stage) -> None:
    publisher = stage.publisher()
    kept, _ = await stage.follow_live(publisher)
    for frames in ([b""], [b"", b"123", b"x"], [b"", b"\xff" * 8, b"x"], [b"", bytes(8), b"x", b"y"]):
        publisher.socket.send_multipart(frames)
    publisher.publish()
    await stage.wait(lambda: kept.payloads == publisher.sent)

    assert kept.problems == [Problem.MALFORMED] * 4


async def test_a_replay_under_another_topic_is_told_and_brings_nothing(stage: Stage) -> None:
    publisher = stage.publisher(topic="kv@one")
    publisher.make()
    kept, _ = stage.follow(publisher, topic="kv@two")
    await stage.wait(lambda: Problem.REPLAY in kept.problems)

    assert Problem.ENDPOINT in kept.problems
    assert (kept.payloads, True in kept.resets) == ([], False)


async def test_engines_that_connect_share_our_socket_and_are_told_apart_by_their_exact_topics(stage: Stage) -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    topics = ("kv@a", "kv@ab")
    publishers = [stage.publisher(endpoint=endpoint, topic=topic, connect=True) for topic in topics]
    followed = [
        stage.follow(publisher, endpoint=endpoint, topic=topic)
        for publisher, topic in zip(publishers, topics, strict=True)
    ]
    rest = [stage.follow(publishers[0], endpoint=endpoint, topic=topic) for topic in ("kv@a", "")]
    await stage.wait(
        lambda: (
            all({b"kv@a", b"kv@ab"} <= publisher.subscribed for publisher in publishers)
            and all(subscription.synced and kept.resets for kept, subscription in followed)
        )
    )
    for publisher in publishers * 3:
        publisher.publish()
    await stage.wait(
        lambda: all(kept.payloads == one.sent for (kept, _), one in zip(followed, publishers, strict=True))
    )

    assert [kept.problems for kept, _ in followed] == [[], []]
    assert [kept.problems for kept, _ in rest] == [[Problem.AMBIGUOUS]] * 2
    assert [kept.payloads for kept, _ in rest] == [[], []]

    followed[0][1].close()
    publishers[1].publish()
    await stage.wait(lambda: followed[1][0].payloads == publishers[1].sent)
    publishers[0].pump()


async def test_an_endpoint_that_is_taken_or_elsewhere_is_a_problem_with_its_reason(stage: Stage) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        kept = Kept()
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        stage.subscriptions.follow(EventSource(endpoint, "", "", 0), host="127.0.0.1", sink=kept)
        assert kept.problems == [Problem.ENDPOINT]
        assert "in use" in kept.details[0]
    for source, host in (
        (EventSource("ipc:///run/kv", "", "", 0), "192.0.2.1"),
        (EventSource("tcp://*:*", "", "", 0), "127.0.0.1"),
    ):
        kept = Kept()
        subscription = stage.subscriptions.follow(source, host=host, sink=kept)
        assert kept.problems == [Problem.ENDPOINT]
        subscription.verify()
        subscription.close()


async def test_a_sink_may_close_its_subscription_while_it_is_called(stage: Stage) -> None:
    publisher = stage.publisher()
    kept, subscription = await stage.follow_live(publisher)
    seen = len(kept.payloads)
    kept.then = subscription.close
    for _ in range(5):
        publisher.publish()
    await stage.wait(lambda: not publisher.subscribed)

    assert len(kept.payloads) == seen + 1


async def test_a_restart_that_nobody_heard_is_noticed_by_the_new_connection(stage: Stage) -> None:
    publisher = stage.publisher()
    kept, subscription = await stage.follow_live(publisher)
    publisher.publish()
    await stage.wait(lambda: len(kept.payloads) == 2)
    publisher.__exit__(None, None, None)
    stage.publishers.clear()
    again = stage.publisher(endpoint=publisher.endpoint, replay=publisher.replay_endpoint)
    for _ in range(2):
        again.make()
    again.sent[1] += b" "
    await stage.wait(lambda: kept.payloads == again.sent and subscription.synced)

    assert kept.resets[-1]


def prompt(worker: SimulatedWorker, first: int) -> None:
    body = json.dumps({"prompt": list(range(first, first + 64)), "max_tokens": 1}).encode()
    assert worker.call("POST", "/v1/completions", body)[0] == 200


@pytest.mark.parametrize("way", ["ipc", "bound here"])
async def test_a_worker_is_followed_from_its_first_block_on_and_after_its_death(
    stage: Stage, way: str, tmp_path: Path
) -> None:
    ports = [free_port(), free_port()]
    endpoint, replay = {
        "ipc": (f"ipc://{tmp_path}/kv", f"ipc://{tmp_path}/replay"),
        "bound here": (f"tcp://127.0.0.1:{ports[0]}", f"tcp://127.0.0.1:{ports[1]}"),
    }[way]
    profile = tmp_path / "profile.yaml"
    profile.write_text(PROFILE)
    flags = (
        *("--profile", str(profile), "--kv-events-endpoint", endpoint),
        *("--kv-events-replay-endpoint", replay, "--kv-events-topic", "kv@{n}"),
    )
    kept = Kept()
    with await asyncio.to_thread(SimulatedWorker.start, *flags) as worker:
        await asyncio.to_thread(prompt, worker, 1000)
        sources = await ask_sources(worker.address, 10)
        assert sources is not None
        assert await ask_models(worker.address, 10)
        stage.subscriptions.follow(sources[0], host=worker.host, sink=kept)
        await stage.wait(lambda: kept.tokens[:1] == [1000] and kept.resets[-1])
        await asyncio.to_thread(prompt, worker, 2000)
        await stage.wait(lambda: 2000 in kept.tokens)
        worker.kill()
        with await asyncio.to_thread(SimulatedWorker.start, *flags, port=worker.port) as again:
            await asyncio.to_thread(prompt, again, 3000)
            await asyncio.to_thread(prompt, again, 4000)
            await stage.wait(lambda: kept.tokens[:1] == [3000] and 4000 in kept.tokens)
    assert kept.resets[-1]
    assert 1000 not in kept.tokens
