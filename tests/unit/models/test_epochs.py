"""The end of a model's prefixes, seen by threads that are in the middle of something."""

from pathlib import Path

import pytest

from extproc.models.model import Model
from tests.support.readers import Reading, make_spec
from tests.support.stores import make_segment, open_store


@pytest.fixture
def model(tmp_path: Path) -> Model:
    reading = Reading(make_spec(tmp_path, "qwen"), store=open_store(make_segment()))
    shelved = reading.shelf.find("qwen")
    assert shelved is not None
    assert shelved.model is not None
    assert shelved.model.uses_prefixes
    return shelved.model


class Interrupting(str):
    """An adapter's name; while its bytes are taken, another thread ends the use of prefixes."""

    __slots__ = ("model",)
    model: Model

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        self.model.without_prefixes()
        return super().encode(encoding, errors)


def test_a_namespace_that_is_made_meanwhile_is_not_taken_for_one_of_the_time_after(model: Model) -> None:
    adapter = Interrupting("adapter")
    adapter.model = model
    before = model.namespace(adapter=adapter, cache_salt="")
    after = model.namespace(adapter="adapter", cache_salt="")
    assert after.key != before.key
    assert after.root == before.root
    assert model.namespace(adapter="adapter", cache_salt="") is after


def test_prefixes_are_not_used_in_the_namespace_of_the_time_after(model: Model) -> None:
    with_prefixes = model.namespace(adapter="", cache_salt="")
    seen = []

    class Watched(Model):
        """Shows what a thread sees whenever something of the model is set."""

        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            seen.append((self.namespace(adapter="", cache_salt="x").key == salted.key, self.uses_prefixes))

    salted = model.namespace(adapter="", cache_salt="x")
    model.__class__ = Watched
    model.without_prefixes()
    assert seen
    assert all(is_before for is_before, uses_prefixes in seen if uses_prefixes)
    assert seen[-1] == (False, False)
    assert model.namespace(adapter="", cache_salt="").key != with_prefixes.key
