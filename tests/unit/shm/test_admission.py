from hypothesis import given
from hypothesis import strategies as st

from extproc.shm.admission import AdmissionColumns
from extproc.shm.layout import ADMISSION_MODELS, MAX_PROCESSES
from tests.support.segments import mapped

PROCESSES = st.sampled_from((0, 1, MAX_PROCESSES - 1))
MODELS = st.sampled_from((0, 1, 64, ADMISSION_MODELS - 1))
OPERATIONS = st.lists(
    st.tuples(PROCESSES, MODELS, st.tuples(st.integers(-2, 3), st.integers(-200, 300)) | st.none()), max_size=60
)


@given(OPERATIONS)
def test_sums_are_what_living_processes_have_admitted(
    operations: list[tuple[int, int, tuple[int, int] | None]],
) -> None:
    segment = mapped()
    processes = {slot: AdmissionColumns(segment, process_slot=slot) for slot in (0, 1, MAX_PROCESSES - 1)}
    supervisor = AdmissionColumns(segment, process_slot=5)
    held: dict[tuple[int, int], tuple[int, int]] = {}
    for process, model, change in operations:
        if change is None:
            supervisor.clear(process)
            held = {place: numbers for place, numbers in held.items() if place[0] != process}
        else:
            processes[process].add(model, requests=change[0], tokens=change[1])
            requests, tokens = held.get((process, model), (0, 0))
            held[process, model] = (max(requests + change[0], 0), max(tokens + change[1], 0))
    for model in range(ADMISSION_MODELS):
        expected = [numbers for (_, of), numbers in held.items() if of == model]
        assert supervisor.of_model(model) == (sum(one for one, _ in expected), sum(other for _, other in expected))
    everything = held.values()
    assert supervisor.total() == (sum(one for one, _ in everything), sum(other for _, other in everything))


def test_all_processes_and_models_fit() -> None:
    segment = mapped()
    for process in range(MAX_PROCESSES):
        for model in range(ADMISSION_MODELS):
            AdmissionColumns(segment, process_slot=process).add(model, requests=model + 1, tokens=1000)
    columns = AdmissionColumns(segment, process_slot=0)
    assert [columns.of_model(model) for model in (0, ADMISSION_MODELS - 1)] == [
        (MAX_PROCESSES, 1000 * MAX_PROCESSES),
        (ADMISSION_MODELS * MAX_PROCESSES, 1000 * MAX_PROCESSES),
    ]
    columns.clear(MAX_PROCESSES - 1)
    assert columns.of_model(0) == (MAX_PROCESSES - 1, 1000 * (MAX_PROCESSES - 1))


def test_numbers_stop_at_zero() -> None:
    columns = AdmissionColumns(mapped(), process_slot=3)
    columns.add(2, requests=-1, tokens=-5)
    columns.add(2, requests=1, tokens=7)
    assert columns.of_model(2) == (1, 7)
