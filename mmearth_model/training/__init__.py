"""Training runs: recipe, plan, loop and run folder."""
