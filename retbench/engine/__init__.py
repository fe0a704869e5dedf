"""From a configuration to a run directory: plan, blocks of workers in turns, resume, audit."""
