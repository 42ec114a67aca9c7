"""The list of built-in loads."""

from extproc.simulation.loads.generators.registry import LOADS


def test_the_loads_have_the_names_that_people_ask_for() -> None:
    assert list(LOADS) == ["chat", "agents", "rag", "shared_prompts", "bursts"]
    assert all(load.name == name for name, load in LOADS.items())
