"""A run whose blocks are jobs of a cluster: how they are submitted, looked after, and merged."""
