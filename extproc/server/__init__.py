"""The gRPC edge: sockets, TLS, HTTP/2 and health checking, in two interchangeable transports.

What belongs here knows about connections and RPCs. What a message means is decided in ``stream``; nothing here looks
inside a ``ProcessingRequest``.
"""
