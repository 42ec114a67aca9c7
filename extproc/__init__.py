"""LLM-aware routing for Envoy: an external processor that picks the vLLM worker for every request."""

__version__ = "0.1.0"
