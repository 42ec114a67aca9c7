"""Active health probes: when a worker is asked, and what its answers mean."""
