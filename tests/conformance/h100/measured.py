"""What was measured of vLLM 0.22.1 on one H100 80 GB: Llama 3.1 8B and 3.2 1B in BF16, random weights.

FlashAttention 3, CUDA graphs, chunked prefill of 8,192 tokens a step, blocks of 16 tokens; the client ran on the same
machine. Times in milliseconds; medians of 3 to 5 repetitions, but one run each of the three-instance loads.
"""

from typing import NamedTuple


class FirstToken(NamedTuple):
    """The time to the first token of a lone request with ``new`` tokens after ``cached`` ones."""

    cached: int
    new: int
    ms: float


class DecodeStep(NamedTuple):
    """A step that generates for ``batch`` requests whose contexts have ``prompt`` + 256 tokens on average."""

    prompt: int
    batch: int
    ms: float


_SAME_AGAIN = 16
"""What is computed of a prompt that is cached as a whole."""

_WHOLE_PROMPTS = {
    128: ((16.2, 16.2), (14.4, 15.0)),
    512: ((20.0, 17.2), (16.5, 16.3)),
    1_024: ((32.9, 17.5), (25.6, 16.8)),
    2_048: ((57.9, 20.5), (27.1, 18.1)),
    4_096: ((111.6, 22.6), (33.6, 25.7)),
    8_192: ((233.4, 31.4), (63.9, 33.9)),
    16_384: ((518.0, 52.5), (137.7, 57.6)),
    32_768: ((1275.9, 69.4), (340.2, 87.7)),
}
_NEW = (16, 256, 1_024, 4_096)
_AFTER_A_PREFIX = {
    0: ((12.4, 14.1, 30.4, 113.3), (13.7, 13.5, 20.7, 33.0)),
    2_048: ((16.5, 17.9, 38.3, 125.8), (14.9, 13.8, 23.9, 38.0)),
    8_192: ((30.0, 36.0, 55.3, 158.7), (30.2, 29.8, 39.0, 56.5)),
    16_384: ((55.6, 49.0, 75.7, 202.0), (45.1, 46.6, 55.1, 84.3)),
    30_720: ((91.7, 95.5, 125.0, 286.5), (79.6, 81.4, 89.3, 133.8)),
}


def _first_tokens(model: int) -> list[FirstToken]:
    points = []
    for tokens, times in _WHOLE_PROMPTS.items():
        uncached, cached = times[model]
        points += [FirstToken(0, tokens, uncached), FirstToken(tokens - _SAME_AGAIN, _SAME_AGAIN, cached)]
    for prefix, by_model in _AFTER_A_PREFIX.items():
        points += [FirstToken(prefix, new, ms) for new, ms in zip(_NEW, by_model[model], strict=True)]
    return points


FIRST_TOKENS = {"h100-8b": _first_tokens(0), "h100-1b": _first_tokens(1)}

DECODE_STEPS_8B = (
    DecodeStep(64, 1, 6.47),
    DecodeStep(64, 8, 6.63),
    DecodeStep(64, 32, 7.18),
    DecodeStep(64, 64, 7.86),
    DecodeStep(64, 128, 9.54),
    DecodeStep(2_048, 32, 9.87),
    DecodeStep(2_048, 128, 20.3),
    DecodeStep(8_192, 32, 18.4),
)
"""Up to 128 requests; at 256 the API server is what is slow."""

STALL_OF_8K_MS = {"h100-8b": 198.0, "h100-1b": 55.0}
"""How much later each of 32 answers with contexts of 512 tokens ends when a prompt of 8,192 tokens comes by."""


class ThreeInstances(NamedTuple):
    """24 conversations of 6 turns on three engines that share the GPU, and the mean time to first token by policy.

    ``gap_secs`` lies between the starts of two conversations: what is left of the run's wall time beside the turns.
    """

    profile: str
    kv_cache_tokens: int
    systems: int
    system_tokens: int
    message_tokens: tuple[int, int]
    answer_tokens: int
    think_secs: float
    gap_secs: float
    ttft_ms: dict[str, float]


_POLICIES = ("round_robin", "least_requests", "manual", "longest_prefix")
"""Measured as: round robin, least in flight, sticky, prefix."""

THREE_INSTANCES = {
    "shared prompts, 1b": ThreeInstances(
        "h100-1b", 65_000, 4, 4_096, (200, 600), 128, 0.5, 0.25, dict(zip(_POLICIES, (58, 56, 46, 41), strict=True))
    ),
    "shared prompts, 8b": ThreeInstances(
        "h100-8b", 49_000, 4, 4_096, (200, 600), 128, 2.0, 0.6, dict(zip(_POLICIES, (191, 189, 136, 125), strict=True))
    ),
    "own prompts, 8b": ThreeInstances(
        "h100-8b",
        49_000,
        24,
        1_024,
        (400, 1_200),
        64,
        0.5,
        0.25,
        dict(zip(_POLICIES, (311, 327, 159, 172), strict=True)),
    ),
}
