"""Import and export of other formats, and subsets and merges of stores."""
