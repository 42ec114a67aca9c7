"""Real vLLM servers on CPU with a tiny random-weight model: the environment, the model and the command line.

vLLM lives in a virtual environment of its own and runs as separate processes; nothing of it is imported here.
"""
