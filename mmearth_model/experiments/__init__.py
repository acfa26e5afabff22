"""The paper's experiments, and open questions of the paper, as commands: resumable grids of runs."""
