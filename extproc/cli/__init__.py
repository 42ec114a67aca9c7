"""The ``extproc`` command.

A module for every subcommand, loaded only when it is the one asked for. It has no rules of its own: what is right is
said by the configuration, what happens by the supervisor.
"""
