"""HTTP: requests, limits, faults and answers."""
