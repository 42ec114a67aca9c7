"""Generated protobuf classes; made from ``proto/`` by ``proto/generate.py`` and never edited by hand."""
