"""Random small collections, whole and spoiled, through every function: the right result or a clear error, nothing else.

What is right is read off the definitions in plain Python, in `reference`. `SPARED_SC_EXAMPLES=20` takes twenty times as
many examples, and other ones at every run.
"""
