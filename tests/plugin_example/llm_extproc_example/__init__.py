"""One plugin of each kind for llm-extproc."""
