import pytest

from extproc.fleet.discovery.retry import Retry


@pytest.mark.parametrize(
    ("failures", "wait_secs"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 5.0), (6, 5.0), (100_000, 5.0)]
)
def test_waits_double_up_to_the_longest(failures: int, wait_secs: float) -> None:
    assert Retry(0.5, 5.0).wait_secs(failures) == wait_secs
