from extproc.simulation.timeline import Timeline, VirtualClock


def test_calls_happen_in_the_order_of_their_time_and_then_of_their_making() -> None:
    timeline, happened = Timeline(VirtualClock(10.0)), []
    for name, secs in (("late", 2.0), ("first", 1.0), ("second", 1.0)):
        timeline.after(secs, lambda name=name: happened.append((name, timeline.now)))  # type: ignore[misc]
    timeline.run()
    assert happened == [("first", 11.0), ("second", 11.0), ("late", 12.0)]


def test_what_is_past_happens_now_and_time_never_goes_back() -> None:
    timeline, seen = Timeline(VirtualClock(10.0)), []
    timeline.at(3.0, lambda: seen.append(timeline.now))
    timeline.run()
    assert seen == [10.0]


def test_a_run_can_stop_at_a_time() -> None:
    timeline, seen = Timeline(VirtualClock(0.0)), []
    for secs in (1.0, 2.0, 3.0):
        timeline.after(secs, lambda: seen.append(timeline.now))
    timeline.run(until=2.0)
    assert seen == [1.0, 2.0]
    timeline.run()
    assert seen == [1.0, 2.0, 3.0]
