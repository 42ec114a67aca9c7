"""The load-balancing family.

One file a policy, named as it is configured. A policy is pure: no I/O, no clock or random source but one passed in, and
choosing changes nothing outside its own state. Candidates arrive filtered and non-empty; the caller does the
accounting.
"""
