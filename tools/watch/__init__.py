"""Watch the memory of a process tree.

A program of its own, which `edgerev.tools.rss` starts in a fresh interpreter (`main`). What a command inherits from
it must be little, so its modules import little, each other by relative names, and nothing else of edgerev.
"""
