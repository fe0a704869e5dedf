"""Triton kernels, each behind custom ops of :mod:`torch.library` that ``torch.compile`` can take.

The operators' modules are importable everywhere; Triton itself is imported when a kernel first
runs. It compiles for a GPU, or, where ``TRITON_INTERPRET=1`` was set before it was imported,
interprets the kernels on the CPU: slow, for tests.

- ``chunk_op``, ``chunk``, ``plan``: retention of whole sequences in chunks, with its gradients.
- ``gated_norm_op``, ``gated_norm``: the norm of each head and the gate behind it, likewise.
- ``step_op``, ``step``: retention of one token, from one matrix product to the next.
- ``attend_op``, ``attend``: attention of one token, from product to product.
- ``rotary``: the rotation that both decode steps share.
"""
