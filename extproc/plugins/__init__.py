"""Installed plugins: entry points of Python packages, found by group and name.

Finding and loading only. What a plugin of a kind must be and how it is called is said by the package that uses that
kind.
"""
