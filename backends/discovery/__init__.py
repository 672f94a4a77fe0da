"""What one machine tells of itself, without anything on it being loaded, started or changed: the first cluster.toml."""
