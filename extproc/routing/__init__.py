"""From a request to an ordered list of endpoints: candidates, choice, accounting. No I/O.

Nothing here knows of ext_proc messages, and nothing here waits: a decision that takes time is returned as a future.
"""
