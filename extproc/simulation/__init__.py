"""Routing in virtual time: the production policies and accounting in front of modelled engines.

Nothing here waits and nothing reads the time or draws a number but from what it is given, so a run with the same seed
is the same to the last byte. What decides is never rebuilt here: it is the code that serves.
"""
