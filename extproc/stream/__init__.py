"""One HTTP exchange on an ext_proc stream: messages in, replies out. No I/O, no clock, no choice of worker.

The protobuf messages are the events and the replies; nothing copies them into classes of our own.
"""
