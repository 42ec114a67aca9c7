"""The order to record, which routers follow: four words of the segment's header.

::

    word 0   until_ns    time.monotonic_ns() at which it ends by itself; 0 while there is none
    word 1   number      of the recording, drawn at random; names its files
    word 2   salt        of the recording, drawn at random; mixed into its hashes
    word 3   max_bytes   of the recording, for all processes together

Written by the observer alone; ``until_ns`` is written last at its beginning and set to 0 first at its end, and an order
is given only while there is none in force. A torn read: none matters. Who reads an order at the moment of its change
may at worst take the first request of a recording for the next one, or leave it out.
"""

from typing import NamedTuple

from extproc.shm.layout import HEADER_BYTES, HEADER_OFFSET, WORD_BYTES
from extproc.shm.segment import RECORDING_WORD, Segment

_UNTIL, _NUMBER, _SALT, _MAX_BYTES = range(4)
_WORDS = 4
assert (RECORDING_WORD + _WORDS) * WORD_BYTES <= HEADER_BYTES, "the order lies in the header"


class Order(NamedTuple):
    """An order to record."""

    until_ns: int
    number: int
    salt: int
    max_bytes: int


class RecordingOrder:
    """The order, as it stands in shared memory."""

    __slots__ = ("_words",)

    def __init__(self, segment: Segment) -> None:
        words = segment.words(HEADER_OFFSET, HEADER_BYTES)
        self._words = words[RECORDING_WORD : RECORDING_WORD + _WORDS]

    @property
    def until_ns(self) -> int:
        """When recording ends, on the monotonic clock; 0 when nothing is to be recorded."""
        until_ns: int = self._words[_UNTIL]
        return until_ns

    @property
    def number(self) -> int:
        """The number of the recording."""
        number: int = self._words[_NUMBER]
        return number

    def read(self) -> Order:
        """Return the whole order, in force or not."""
        return Order._make(self._words.tolist())

    def give(self, order: Order) -> None:
        """Let routers record. Only the observer calls this, while no order is in force."""
        words = self._words
        words[_NUMBER], words[_SALT], words[_MAX_BYTES] = order.number, order.salt, order.max_bytes
        words[_UNTIL] = order.until_ns

    def end(self) -> None:
        """Let routers record no more. Only the observer calls this."""
        self._words[_UNTIL] = 0
