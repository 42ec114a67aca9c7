"""The bodies of each API: what is read from a request and how an answer is worded. No I/O, no time.

One module a family of paths; ``registry`` is the only list of them.
"""
