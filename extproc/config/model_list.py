"""The ``models`` list: its entries read and checked.

A request names a model by its name, an alias or an adapter, so all of these together are unique. Whether a ``source``
can be used is found out when it is loaded: one model that cannot be must not keep the others from working.
"""

from collections.abc import Iterable, Iterator

from extproc.config.entries import is_json_object, model_name_problem, read_entries, too_many
from extproc.config.fault import Fault, shown
from extproc.config.files import file_problem
from extproc.config.models import ModelSpec

MAX_MODELS = 64
MAX_OTHER_NAMES = 64
"""Aliases and adapters of one model, together."""


def read_models(value: object) -> tuple[tuple[ModelSpec, ...], list[Fault]]:
    """Read and check the list as the file's loader gave it; return the entries that could be read, and every fault.

    Looks at the files of chat templates, without reading them.
    """
    readable, faults = read_entries(value, name="models", kind=ModelSpec, most=MAX_MODELS, needs="a `name`")
    return tuple(spec for _, spec in readable), faults + _model_faults(readable)


def find_model_faults(models: tuple[ModelSpec, ...]) -> list[Fault]:
    """Check entries that were made by other means than :func:`read_models`."""
    return too_many("models", models, MAX_MODELS) or _model_faults(enumerate(models))


def names_of(spec: ModelSpec) -> tuple[str, ...]:
    """Return everything that a request may call a model: its name, aliases and adapters."""
    return (spec.name, *spec.aliases, *spec.lora_adapters)


def _model_faults(models: Iterable[tuple[int, ModelSpec]]) -> list[Fault]:
    faults: list[Fault] = []
    owners: dict[str, str] = {}
    for index, spec in models:
        path = f"models[{index}]"
        faults += _name_faults(path, spec, owners)
        if spec.chat_template_file and (problem := file_problem(spec.chat_template_file)):
            faults.append(Fault(f"{path}.chat_template_file", problem))
        kwargs = spec.default_chat_template_kwargs
        if kwargs and not is_json_object(kwargs):
            faults.append(Fault(f"{path}.default_chat_template_kwargs", f"must be a JSON object; is {shown(kwargs)}"))
    return faults


def _name_faults(path: str, spec: ModelSpec, owners: dict[str, str]) -> list[Fault]:
    """Enter the names of a model into ``owners``, which says whose each is, and return what is wrong with them."""
    others = len(spec.aliases) + len(spec.lora_adapters)
    if others > MAX_OTHER_NAMES:
        return [Fault(path, f"must have at most {MAX_OTHER_NAMES} aliases and adapters, not {others:,}")]
    faults: list[Fault] = []
    if not spec.name:
        faults.append(Fault(f"{path}.name", "is required: the `model` of requests"))
    for place, name, role in _roles(spec):
        problem = model_name_problem(name) or (f"is also {owners[name]}" if name in owners else "")
        if problem:
            faults.append(Fault(f"{path}.{place}", problem))
        else:
            owners[name] = f"{role} of {path}"
    return faults


def _roles(spec: ModelSpec) -> Iterator[tuple[str, str, str]]:
    """Return where each name of a model stands, the name, and what it is."""
    if spec.name:
        yield "name", spec.name, "the name"
    for index, alias in enumerate(spec.aliases):
        yield f"aliases[{index}]", alias, "an alias"
    for index, adapter in enumerate(spec.lora_adapters):
        yield f"lora_adapters[{index}]", adapter, "an adapter"
