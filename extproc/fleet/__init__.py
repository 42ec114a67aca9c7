"""The fleet of LLM workers as this service knows it: records, discovery, health, and their shared form.

The worker side (simulated workers, vLLM launchers) is the top-level ``workers`` package.
"""
