"""From arrays to claims: centres, intervals, verdicts, crossovers and laws."""
