"""A worker that speaks like vLLM and computes nothing: HTTP surface, metrics, timing and, when told to, faults."""
