"""``vllm_xargs``: what vLLM lets a request's body say to the engine directly, as far as it may not."""

import msgspec

from extproc.api.body import decode_field
from extproc.errors import InvalidRequest

FIELD = "vllm_xargs"
REPORT_MODE = "kv_cache_report_mode"


class _EngineArguments(msgspec.Struct):
    kv_cache_report_mode: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decoder = msgspec.json.Decoder(_EngineArguments)


def refuse_report_mode(arguments: msgspec.Raw) -> None:
    """Raise :class:`InvalidRequest` when the engine would report blocks that it has already reported.

    Copies of blocks are counted by what is reported, so the count would be wrong for as long as the engine runs.
    """
    if not isinstance(decode_field(_decoder, arguments, FIELD).kv_cache_report_mode, msgspec.UnsetType):
        raise InvalidRequest(
            f"`{REPORT_MODE}` is not allowed here: it would spoil the account of the engines' caches.",
            param=f"{FIELD}.{REPORT_MODE}",
        )
