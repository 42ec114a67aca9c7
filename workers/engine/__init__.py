"""A model of vLLM's engine: what it computes, when, and what it keeps in its cache.

Nothing here reads a clock, draws a number or does I/O. Whoever drives an engine says what time it is, so the same model
runs in virtual time (``extproc simulate``) and in real time (``workers.simulated``).
"""
