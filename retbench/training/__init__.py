"""How a model is trained and scored: the one loop and its step, checkpoints, the command ``train``.

The suites of quality train through :mod:`retbench.training.loop`; the suite ``training`` times the
steps of :mod:`retbench.training.step`.
"""
