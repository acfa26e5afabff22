"""What runs, probes and experiments left on disk, as one report: plain values, a summary for a terminal, and a page."""
