"""What a request may not tell an engine."""

import json

import msgspec
import pytest

from extproc.api.vllm_xargs import refuse_report_mode
from extproc.errors import InvalidRequest


def arguments(value: object) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(value).encode())


@pytest.mark.parametrize("mode", ["full", "", 1, ["full"], None])
def test_a_report_mode_is_refused_whatever_it_is(mode: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        refuse_report_mode(arguments({"other": 1, "kv_cache_report_mode": mode}))
    assert refused.value.param == "vllm_xargs.kv_cache_report_mode"
    assert refused.value.status == 400


def test_a_report_mode_is_found_however_it_is_written() -> None:
    with pytest.raises(InvalidRequest) as refused:
        refuse_report_mode(msgspec.Raw(rb'{"kv_cache_\u0072eport_mode": "full"}'))
    assert refused.value.param == "vllm_xargs.kv_cache_report_mode"


@pytest.mark.parametrize("value", [{}, {"other": {"kv_cache_report_mode": "full"}}, {"kv_cache": "report_mode"}])
def test_other_arguments_are_the_engines_business(value: object) -> None:
    refuse_report_mode(arguments(value))


@pytest.mark.parametrize("value", [[], "kv_cache_report_mode", 1])
def test_what_are_no_arguments_is_refused_under_their_name(value: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        refuse_report_mode(arguments(value))
    assert refused.value.param == "vllm_xargs"
