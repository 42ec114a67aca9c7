"""Recording live traffic: what a request was, in numbers and hashes, on its way from a router to a trace file.

What belongs here knows of requests, decisions and files of records. No text of a prompt may pass through it.
"""
