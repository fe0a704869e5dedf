"""What each family of models is: its options, and its parameters, FLOPs and bytes; no torch.

What computes it is imported when a model is built: :mod:`models.decoder`, :mod:`models.mixers`.
"""
