"""What is asked of a simulated fleet, and when: recorded traces and built-in loads, in one form.

A load belongs here when it needs nothing but its parameters and a seed: no clock, no randomness of its own, and no
knowledge of who answers. Files are read at one place, ``trace.py``.
"""
