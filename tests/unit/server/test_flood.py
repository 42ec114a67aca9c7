from hypothesis import given
from hypothesis import strategies as st

from extproc.server.flood import WINDOW_SECS, FloodGuard


@given(st.integers(1, 5), st.lists(st.floats(0, 30), max_size=40).map(sorted))
def test_an_event_is_too_many_when_the_limit_was_reached_within_the_window(limit: int, times: list[float]) -> None:
    guard = FloodGuard(limit)
    for index, now in enumerate(times):
        recent = sum(now - earlier < WINDOW_SECS for earlier in times[:index])
        assert guard.exceeded(now) == (recent >= limit)
