"""The ledger: which of the RetNet paper's claims stand, by the runs that there are and the bound.

``claims.toml`` has every claim with its test, :mod:`~retbench.report.claims.entries` reads it,
:mod:`~retbench.report.claims.evidence` finds the numbers, :mod:`~retbench.report.claims.ledger`
judges, and :mod:`~retbench.report.claims.page` writes.
"""
