"""What engines say of their caches: from the bytes on the wire to the blocks that each of them holds.

``decode`` reads a batch of any version of vLLM into ``events``; ``stream`` puts the batches of one publisher in order
and asks for those that are missing; ``subscriber`` holds the sockets and ``sources`` finds out where to connect them;
``engine_blocks`` turns events into blocks gained and lost, in our own hashes, and
``engine_cache`` says how far that can be believed.
"""
