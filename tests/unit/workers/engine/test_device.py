from tests.support.engine_runs import Ask, Bench, small_profile
from workers.engine.device import Device
from workers.engine.engine import Engine
from workers.engine.profile import StepCosts

FLAT = StepCosts(base_secs=1.0, prefill_token_secs=0.01)


def test_engines_that_share_a_device_slow_each_other_down_while_both_are_busy() -> None:
    device = Device(most_steps=1)
    one, two = (Bench(Engine(small_profile(step=FLAT), device=device)) for _ in range(2))
    short = one.add(Ask(at=0.0, prompt_tokens=1, answer_tokens=2), tail=0)
    long = two.add(Ask(at=0.0, prompt_tokens=1, answer_tokens=4), tail=0)
    for at in range(20):
        one.run_until(at)
        two.run_until(at)

    assert device.slowdown == 1
    # The first step of each began before the other engine was seen.
    assert short.ended_at == 1 + 2
    assert long.ended_at == 2 + 2 + 1 + 1


def test_a_device_without_engines_slows_nobody_down() -> None:
    assert Device().slowdown == 1
