"""The machine that measures: clock, memory, ceilings, provenance, and what disturbs it.

Nothing here knows of models or suites. Torch is imported only where it is used.
"""
