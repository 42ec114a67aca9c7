"""The worker side: what stands behind the gateway.

Nothing here imports from ``extproc``, so a worker can be understood, started and replaced without it.
"""
