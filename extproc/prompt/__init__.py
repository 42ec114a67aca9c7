"""Rendering of chat messages to the text of a prompt, exactly as the engine does it.

Messages are brought into the engine's form (``conversation``) and given to a model's chat template (``chat_template``).
No I/O besides a clock that is passed in, and nothing here knows of tokens, workers or HTTP.
"""
