"""Parts: which are texts, which are media, and what tells media apart."""

from typing import Any

import pytest

from extproc.errors import InvalidRequest
from extproc.prompt.content_parts import BILLING_HEADER, PartReader, without_billing_header

URL = "http://example.org/a"


def media_of(*parts: Any) -> list[bytes]:  # noqa: ANN401
    reader = PartReader(wrap=True)
    reader.read(list(parts))
    return reader.media


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("bare", "bare"),
        ({"type": "text", "text": "a"}, "a"),
        ({"type": "text", "text": "a", "uuid": None}, "a"),
        ({"type": "input_text", "text": "a"}, "a"),
        ({"type": "output_text", "text": "a"}, "a"),
        ({"type": "refusal", "refusal": "no"}, "no"),
        ({"type": "thinking", "thinking": "hm", "closed": True}, "hm"),
    ],
)
def test_texts(part: Any, text: str) -> None:  # noqa: ANN401
    assert PartReader(wrap=False).read([part]) == text
    assert PartReader(wrap=True).read([part]) == [{"type": "text", "text": text}]


def test_texts_are_joined_without_the_empty_ones() -> None:
    assert PartReader(wrap=False).read(["a", "", {"type": "text", "text": None}, "b"]) == "a\nb"
    assert PartReader(wrap=True).read(["", {"type": "refusal"}]) == [{"type": "text", "text": ""}]


def test_fields_that_the_engine_does_not_know_reach_the_template() -> None:
    part = {"cache": 1, "type": "text", "text": "a", "name": "known"}
    assert PartReader(wrap=True).read([part]) == [{"type": "text", "text": "a", "cache": 1}]
    image = {"type": "image_url", "image_url": {"url": URL}, "min_pixels": 2}
    assert PartReader(wrap=True).read([image]) == [{"type": "image", "min_pixels": 2}]


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "image_url", "image_url": {"url": URL}}, "image"),
        ({"type": "image_url", "image_url": URL}, "image"),
        ({"image_url": URL}, "image"),
        ({"type": "input_image", "image_url": URL}, "image"),
        ({"type": "image_embeds", "image_embeds": {"a": "b"}}, "image"),
        ({"type": "image_url", "image_url": None, "uuid": "u"}, "image"),
        ({"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}}, "audio"),
        ({"type": "audio_url", "audio_url": {"url": URL}}, "audio"),
        ({"type": "audio_embeds", "audio_embeds": "x"}, "audio"),
        ({"type": "video_url", "video_url": {"url": URL}}, "video"),
        ({"video_url": URL}, "video"),
        ({"type": "video_embeds", "video_embeds": None, "uuid": 5}, "video"),
    ],
)
def test_media(part: dict[str, Any], kind: str) -> None:
    reader = PartReader(wrap=True)
    assert reader.read([part]) == [{"type": kind}]
    assert len(reader.media) == 1
    assert PartReader(wrap=False).read(["a", part, "b"]) == "a\nb"


@pytest.mark.parametrize(
    ("wrap", "shown"), [(True, [{"type": "text", "text": "<prompt_embeds>"}]), (False, "<prompt_embeds>")]
)
def test_embeddings_stand_in_the_text(wrap: bool, shown: Any) -> None:  # noqa: ANN401
    reader = PartReader(wrap=wrap)
    assert reader.read([{"type": "prompt_embeds", "data": "AAAA"}]) == shown
    assert len(reader.media) == 1


def test_references_to_tools_are_no_media() -> None:
    part = {"type": "tool_reference", "name": "f", "other": 1}
    reader = PartReader(wrap=True)
    assert reader.read([part, {"type": "tool_reference"}]) == [
        {"type": "tool_reference", "name": "f"},
        {"type": "tool_reference", "name": None},
    ]
    assert reader.media == []
    assert PartReader(wrap=False).read([part, {"type": "tool_reference"}]) == "f"


def test_media_are_told_apart_by_kind_and_data() -> None:
    image, audio = {"image_url": URL}, {"audio_url": URL}
    others = [
        {"image_url": URL + "b"},
        audio,
        {"type": "image_embeds", "image_embeds": URL},
        {"image_url": None, "uuid": URL},
    ]
    hashes = media_of(image, *others)
    assert len(set(hashes)) == len(hashes)
    assert media_of({"type": "image_url", "image_url": {"url": URL, "detail": "auto"}}) == media_of(image)
    assert media_of(image, audio) == media_of(audio, image)[::-1]


def test_a_medium_with_an_id_is_known_by_the_id() -> None:
    assert media_of({"image_url": URL, "uuid": "u"}) == media_of({"image_url": None, "uuid": "u"})
    assert media_of({"image_url": URL, "uuid": "u"}) != media_of({"image_url": URL, "uuid": "v"})


@pytest.mark.parametrize(
    ("part", "place"),
    [
        ({"type": "image_url"}, ".image_url"),
        ({"type": "image_url", "image_url": {}}, ".image_url"),
        ({"type": "input_audio", "input_audio": None}, ".input_audio"),
        ({"type": "text", "text": "a", "uuid": "u"}, ".type"),
        ({"type": 5}, ".type"),
        ({"type": []}, ".type"),
        ({"type": "thinking"}, ".thinking"),
        ({"type": "tool_reference", "name": 5}, ".name"),
    ],
)
def test_what_is_not_understood_is_refused(part: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        PartReader(wrap=False).read(["a", part])
    assert refused.value.param == f".content[1]{place}"


def test_a_billing_line_is_left_out() -> None:
    line = f"{BILLING_HEADER}: cch=1;"
    parts = [
        line,
        f"{line}\nrest",
        {"type": "text", "text": f"{line}\nmore", "x": 1},
        {"type": "text", "text": line},
        "other",
    ]
    before = str(parts)
    assert without_billing_header(parts) == ["rest", {"type": "text", "text": "more", "x": 1}, "other"]
    assert without_billing_header([{"type": "image", "text": line}, 5]) == [{"type": "image", "text": line}, 5]
    assert str(parts) == before
