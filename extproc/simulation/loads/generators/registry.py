"""The built-in loads by name. The only list."""

from collections.abc import Mapping
from types import MappingProxyType

from extproc.simulation.loads.generators.agents import Agents
from extproc.simulation.loads.generators.base import BuiltInLoad
from extproc.simulation.loads.generators.bursts import Bursts
from extproc.simulation.loads.generators.chat import Chat
from extproc.simulation.loads.generators.rag import Rag
from extproc.simulation.loads.generators.shared_prompts import SharedPrompts

LOADS: Mapping[str, type[BuiltInLoad]] = MappingProxyType(
    {load.name: load for load in (Chat, Agents, Rag, SharedPrompts, Bursts)}
)
