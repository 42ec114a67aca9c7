"""Recorded loads: one JSON object a line, as in the Mooncake traces and in our own recordings.

``timestamp`` is in milliseconds from any origin and does not fall, ``input_length`` and ``output_length`` are in
tokens, and ``hash_ids`` has a number for every 512 tokens of the prompt. Other fields are ignored. Every line is a
session of one request, sent at its time whatever became of those before: who spoke with whom is not recorded.

Two prompts share a block where all numbers up to it are equal. In the Mooncake traces a number stands for everything
before it too, so there this says nothing more than that the numbers are equal.
"""

import array
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt

from extproc.errors import TraceUnusable
from extproc.simulation.loads.hashing import chain
from extproc.simulation.loads.load import BLOCK_TOKENS, MAX_SECS, Blocks, Session, Turn

MAX_PROMPT_TOKENS = 10_000_000
MAX_ANSWER_TOKENS = 1_000_000
MAX_LINES = 10_000_000
MAX_BLOCKS = 200_000_000
"""1.6 GB of hashes."""
MAX_LINE_BYTES = 64 * 1024 * 1024
MAX_TIMESTAMP_MS = 1e14
"""About 3,000 years, and still exact to a 64th of a millisecond."""

_LINES_AT_ONCE = 4096


class _Line(msgspec.Struct, gc=False):
    timestamp: Annotated[float, msgspec.Meta(ge=0, le=MAX_TIMESTAMP_MS)]
    input_length: Annotated[int, msgspec.Meta(ge=1, le=MAX_PROMPT_TOKENS)]
    output_length: Annotated[int, msgspec.Meta(ge=0, le=MAX_ANSWER_TOKENS)]
    hash_ids: list[Annotated[int, msgspec.Meta(ge=0)]]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """A trace in memory: about 24 bytes a request and 8 a block."""

    name: str
    _starts_at: npt.NDArray[np.float64]
    _prompt_tokens: npt.NDArray[np.int32]
    _answer_tokens: npt.NDArray[np.int32]
    _ends: npt.NDArray[np.int64]
    _blocks: Blocks

    @property
    def requests(self) -> int:
        """Number of lines."""
        return len(self._starts_at)

    @property
    def secs(self) -> float:
        """Time from the first to the last request."""
        return float(self._starts_at[-1])

    def sessions(self) -> Iterator[Session]:
        """Give one session a line; its key is its own, since clients are not recorded."""
        begin = 0
        for first in range(0, self.requests, _LINES_AT_ONCE):
            part = slice(first, first + _LINES_AT_ONCE)
            columns = (self._starts_at, self._prompt_tokens, self._answer_tokens, self._ends)
            rows = zip(*(column[part].tolist() for column in columns), strict=True)
            for number, (starts_at, prompt_tokens, answer_tokens, end) in enumerate(rows, first + 1):
                turn = Turn(prompt_tokens, answer_tokens, self._blocks[begin:end], 0.0)
                yield Session(starts_at, f"request-{number}", (turn,))
                begin = end


def load_trace(path: Path) -> Trace:
    """Read the trace at ``path``; raises ``TraceUnusable`` naming the path, the first bad line and its fault."""
    try:
        with path.open("rb") as file:
            return read_trace(file, name=path.name)
    except OSError as error:
        raise TraceUnusable(f"{path}: {error.strerror or error}") from error
    except TraceUnusable as error:
        raise TraceUnusable(f"{path}: {error}") from error


def read_trace(file: BinaryIO, *, name: str, max_lines: int = MAX_LINES, max_blocks: int = MAX_BLOCKS) -> Trace:
    """Read a trace to its end before anything of it is used.

    An answer of no tokens counts as one token. A trace of more lines, or of more blocks in all, is not read. Raises
    ``TraceUnusable`` naming the first bad line and its fault.
    """
    starts, prompts, answers = array.array("d"), array.array("i"), array.array("i")
    ends, ids = array.array("q"), array.array("Q")
    decoder = msgspec.json.Decoder(_Line)
    number = 0
    for number, text in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
        try:
            if number > max_lines:
                raise ValueError(f"a trace has at most {max_lines:,} lines")
            line = _checked(text, decoder)
            _check_time(line.timestamp, starts)
            if len(ids) + len(line.hash_ids) > max_blocks:
                raise ValueError(f"a trace has at most {max_blocks:,} hash_ids in all")
            ids.extend(line.hash_ids)
        except OverflowError:
            raise TraceUnusable(f"line {number}: hash_ids has a number of more than 64 bits") from None
        except ValueError as error:
            raise TraceUnusable(f"line {number}: {error}") from None
        starts.append(line.timestamp)
        prompts.append(line.input_length)
        answers.append(max(line.output_length, 1))
        ends.append(len(ids))
    if not number:
        raise TraceUnusable("the file is empty")
    starts_at = np.frombuffer(starts, dtype=np.float64)
    return Trace(
        name,
        (starts_at - starts_at[0]) / 1000.0,
        np.frombuffer(prompts, dtype=np.int32),
        np.frombuffer(answers, dtype=np.int32),
        np.frombuffer(ends, dtype=np.int64),
        _chained(np.frombuffer(ids, dtype=np.uint64), np.frombuffer(ends, dtype=np.int64)),
    )


def _checked(text: bytes, decoder: "msgspec.json.Decoder[_Line]") -> _Line:
    """Decode a line; raises ``ValueError`` with what is wrong with it by itself."""
    if len(text) > MAX_LINE_BYTES:
        raise ValueError(f"is longer than {MAX_LINE_BYTES:,} bytes")
    if text.isspace():
        raise ValueError("is empty")
    if not text.isascii():
        _check_text(text)
    try:
        line = decoder.decode(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    needed = -(-line.input_length // BLOCK_TOKENS)
    if len(line.hash_ids) != needed:
        given = f"{len(line.hash_ids):,} {'entry' if len(line.hash_ids) == 1 else 'entries'}"
        raise ValueError(f"hash_ids has {given}, an input_length of {line.input_length} needs {needed:,}")
    return line


def _check_text(text: bytes) -> None:
    """Look at what the decoder passes over: texts of fields that are not read."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start})") from None


def _check_time(timestamp: float, before: "array.array[float]") -> None:
    if not before:
        return
    if timestamp < before[-1]:
        raise ValueError(f"timestamp falls from {before[-1]:.16g} to {timestamp:.16g}")
    if timestamp - before[0] > MAX_SECS * 1000:
        raise ValueError(f"timestamp is more than {MAX_SECS / 86_400:.0f} days after the first")


def _chained(ids: Blocks, ends: npt.NDArray[np.int64]) -> Blocks:
    """Turn the numbers of every request into chained hashes, in place and a part at a time, to need no second copy."""
    begin = 0
    for first in range(0, len(ends), _LINES_AT_ONCE):
        lines = ends[first : first + _LINES_AT_ONCE]
        chain(ids[begin : lines[-1]], lines - begin)
        begin = int(lines[-1])
    ids.flags.writeable = False
    return ids
