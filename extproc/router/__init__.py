"""The router process: ext_proc streams and nothing else. Joins transport, stream and routing."""
