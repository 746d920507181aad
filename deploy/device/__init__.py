"""What runs on the device before edgerev is there: standard library only, and imported relatively.

A bundle brings these files as a package of its own, called `device`.
"""
