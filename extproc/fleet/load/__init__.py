"""What engines say of their load: reading it from ``/metrics``, and what is learned from one reading to the next."""
