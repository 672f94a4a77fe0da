"""GPU readings: what the vendors' own tools say, parsed leniently, streamed one process per node."""
