"""How a number is measured: statistics, clock, memory and the machine's ceilings.

Nothing here knows of models or suites. :mod:`retbench.measure.stats` needs numpy and
scipy.special alone, so that reports are made without torch; the others import torch only where
they use it.
"""
