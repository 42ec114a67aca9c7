"""Settings: what an operator can change, declared once.

Only declarations, and the code that reads, checks and documents them. No other package of ours is imported here, and a
component is given its own group, never the root.
"""
