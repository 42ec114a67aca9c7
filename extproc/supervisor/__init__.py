"""Processes: starting, watching, replacing and stopping them, and what a child needs to be watched.

No request work, no knowledge of what a role does: roles are named as text and imported by the child alone.
"""
