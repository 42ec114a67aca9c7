"""Shared memory between the processes of one service.

Layout, and small structures over it that are safe when any process is killed at any point. No locks, no policy, no
knowledge of requests.
"""
