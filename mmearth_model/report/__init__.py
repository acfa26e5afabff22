"""Reports on runs, probes and experiments on disk: as data, as a summary for a terminal, and as an HTML page."""
