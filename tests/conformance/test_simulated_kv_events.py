"""The events of simulated workers against those of a real vLLM, byte for byte."""

import msgspec

from tests.support.event_recordings import event_recording
from workers.engine.events import CacheEvent, Cleared, Removed, Stored
from workers.engine.request import Request
from workers.simulated.kv_events import Encoder


def test_a_simulated_worker_words_what_happened_in_a_real_engine_byte_for_byte() -> None:
    recording = event_recording("integers")
    encoder = Encoder(block_size=recording.block_size, loras=["ad1"])
    places = dict[int, int]()
    for asked in recording.asked:
        request = Request(
            prompt_tokens=len(asked.prompt),
            answer_tokens=len(asked.answer),
            hashes=[],
            on_first=print,
            on_end=print,
            lora=asked.lora,
            tokens=asked.tokens,
            cache_salt=asked.cache_salt,
        )
        hashes = dict[int, int]()
        for payload in asked.payloads:
            time, events, _rank = msgspec.msgpack.decode(payload)
            simulated: list[CacheEvent] = []
            for event in events:
                if event["type"] == "AllBlocksCleared":
                    simulated.append(Cleared())
                    continue
                names, parent = event["block_hashes"], event.get("parent_block_hash")
                if event["type"] == "BlockRemoved":
                    simulated.append(Removed(*names))
                    continue
                first = 0 if parent is None else places[parent] + 1
                places |= {name: first + number for number, name in enumerate(names)}
                hashes |= dict(enumerate(names, first)) | ({} if parent is None else {first - 1: parent})
                # Those before were stored for other requests.
                request.hashes = [hashes.get(number, 0) for number in range(first + len(names))]
                simulated.append(Stored(request, first, len(names)))
            assert encoder.batch(simulated, now=time) == payload, asked.name
