"""The paper's experiments, and those that it leaves open, as commands: grids of runs that are finished once."""
