"""Plan a build, fill its shards, run them."""
