"""Built-in loads: what people typically ask of a fleet, drawn from seeded distributions.

A file for every load, each a class of :class:`~extproc.simulation.loads.generators.base.BuiltInLoad` whose fields are
its parameters; ``registry.py`` lists them. Lengths are lognormal around a mean, with a cap, where nothing else is said.
Contents are ids, not texts: what two prompts share follows from which ids are in them, and where.
"""
