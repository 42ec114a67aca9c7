"""What the service tells people and collectors: logs, metrics, guarded tasks. It decides nothing."""
