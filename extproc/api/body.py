"""What all request bodies share, and how a body that cannot be read is refused."""

import re
from typing import TypeVar

import msgspec

from extproc.errors import InvalidRequest

B = TypeVar("B", bound="RequestBody")

# Where inside a field it is wrong comes first: `Object missing required field `role` - at `$.messages[0]``.
_PLACES = (re.compile(r"at `\$\.(\w+)"), re.compile(r"missing required field `(\w+)"))


class RequestBody(msgspec.Struct, frozen=True, kw_only=True):
    """The routing-relevant part of a body. ``model`` is required on every recognised path."""

    model: str
    stream: bool | None = None


def decode(decoder: msgspec.json.Decoder[B], body: bytes) -> B:
    """Read a body, or refuse it (400) with the name of the top-level field at fault.

    The message quotes the decoder, which speaks of types and positions and never of values, so nothing of the prompt
    appears in it.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        matches = (place.search(str(error)) for place in _PLACES)
        raise InvalidRequest(str(error), param=next((match[1] for match in matches if match), None)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}") from error
    except RecursionError as error:
        raise InvalidRequest("The request body is nested too deeply.") from error
