import json

import msgspec
import pytest
from hypothesis import given, settings

from extproc.config.handover import settings_from_json, settings_to_json
from extproc.config.settings import Settings
from tests.support.settings import all_settings


@given(all_settings)
@settings(deadline=None)
def test_any_settings_survive_the_trip_as_json_text(given_settings: Settings) -> None:
    text = json.dumps(settings_to_json(given_settings))
    assert settings_from_json(json.loads(text)) == given_settings


def test_data_is_taken_back_without_a_trip_through_text() -> None:
    assert settings_from_json(settings_to_json(Settings())) == Settings()


def test_anything_else_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        settings_from_json({"server": {"max_streams": "many"}})
