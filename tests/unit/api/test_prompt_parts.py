"""Fields that are read without decoding them."""

import msgspec
import pytest

from extproc.api.body import NULL
from extproc.api.prompt_parts import forbids_tools, has_forwarded_ids, optional


def test_a_missing_text_is_not_an_empty_one() -> None:
    assert len({optional(None), optional(""), optional("a")}) == 3


@pytest.mark.parametrize(
    ("choice", "forbids"), [(b'"none"', True), (b'"auto"', False), (b"null", False), (b'{"type":"none"}', False)]
)
def test_only_none_forbids_tools(choice: bytes, forbids: bool) -> None:
    assert forbids_tools(msgspec.Raw(choice)) is forbids


@pytest.mark.parametrize(
    ("params", "forwarded"), [(b'{"prompt_token_ids":[1]}', True), (b'{"do_remote_decode":true}', False)]
)
def test_forwarded_ids_are_found(params: bytes, forwarded: bool) -> None:
    assert has_forwarded_ids(msgspec.Raw(params)) is forwarded
    assert not has_forwarded_ids(NULL)
