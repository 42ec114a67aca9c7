"""Strategies for valid settings, made from the declarations, and the text a person would write for them."""

import dataclasses
import json
import typing
from itertools import islice
from typing import Any, Literal

import yaml
from hypothesis import strategies as st

from extproc.config.catalogue import Entry, fields_of, groups
from extproc.config.convert import MAX_TEXT_LENGTH
from extproc.config.fleet import WorkerSpec
from extproc.config.models import ModelSpec
from extproc.config.plugins import PluginSpec
from extproc.config.settings import Settings

printable = st.text(max_size=40).filter(str.isprintable) | st.sampled_from(
    ["off", "yes", "1", "1.5", "1:30", "null", "~", "2001-01-01", "0x1", "1e3", "<<", "=", "{", "'", '"', "#", "é", "-"]
)
assert MAX_TEXT_LENGTH > 40


def value_of(entry: Entry) -> st.SearchStrategy[Any]:
    """Return any value that is valid for a setting by itself."""
    low, high = entry.declaration.low, entry.declaration.high
    if typing.get_origin(entry.type) is Literal:
        return st.sampled_from(typing.get_args(entry.type))
    if entry.type is bool:
        return st.booleans()
    if entry.type is int:
        lowest = -(2**53) if low is None else int(low)
        return st.integers(lowest, 2**53 if high is None else int(high))
    if entry.type is float:
        return st.floats(low, high, allow_nan=False, allow_infinity=False)
    if entry.type is str:
        return printable
    return st.lists(st.from_regex(r"[a-z-]{1,12}\*?", fullmatch=True), max_size=4).map(tuple)


def group_of(group: type) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({}, optional={name: value_of(entry) for name, entry in fields_of(group).items()}).map(
        lambda values: group(**values)
    )


addresses = st.builds(
    "{}:{}".format,
    st.one_of(st.ip_addresses(v=4).filter(lambda ip: not (ip.is_unspecified or ip.is_multicast))),
    st.integers(1, 65535),
)
worker_ids = st.from_regex(r"[A-Za-z_/][A-Za-z0-9._:/-]{0,127}", fullmatch=True)
workers = st.builds(
    WorkerSpec,
    address=addresses,
    id=st.just("") | worker_ids,
    models=st.lists(printable.filter(bool), max_size=5, unique=True).map(tuple),
    draining=st.booleans(),
)
worker_lists = st.lists(
    workers, max_size=6, unique_by=(lambda spec: spec.address, lambda spec: spec.id or spec.address)
)

own_values = group_of(ModelSpec)
template_files = st.sampled_from(["", __file__])
objects = st.just("") | st.dictionaries(st.text(max_size=4), st.none() | st.booleans() | st.text(max_size=4)).map(
    json.dumps
)


@st.composite
def model_lists(draw: st.DrawFn) -> tuple[ModelSpec, ...]:
    """Models that share no name."""
    names = iter(draw(st.lists(printable.filter(bool), max_size=12, unique=True)))
    counts = st.integers(0, 3)
    return tuple(
        dataclasses.replace(
            draw(own_values),
            name=name,
            aliases=tuple(islice(names, draw(counts))),
            lora_adapters=tuple(islice(names, draw(counts))),
            chat_template_file=draw(template_files),
            default_chat_template_kwargs=draw(objects),
        )
        for name in names
    )


plugin_lists = st.lists(
    st.builds(PluginSpec, name=st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True), options=objects),
    max_size=3,
    unique_by=lambda spec: spec.name,
)

all_settings = st.builds(
    Settings,
    **{name: group_of(group) for name, group in groups().items()},
    workers=worker_lists.map(tuple),
    models=model_lists(),
    plugins=plugin_lists.map(tuple),
)


def as_yaml(settings: Settings) -> str:
    """Write settings as an ordinary YAML tool does."""
    document = json.loads(json.dumps(dataclasses.asdict(settings)))
    return yaml.safe_dump(document, allow_unicode=True, sort_keys=False)
