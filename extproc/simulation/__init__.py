"""Routing in virtual time: the production policies and accounting in front of modelled engines."""
