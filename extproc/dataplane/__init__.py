"""What Envoy reads: its bootstrap and the file with its endpoints.

Pure functions from settings to Envoy's typed objects, and one writer of one file. No sockets, no processes, and nothing
here is on the path of a request. Only :mod:`extproc.dataplane.eds` is meant for a long-lived process: every other
module imports ``envoy_data_plane``, which is large and slow to import.
"""
