"""Models that are cut into parts, each in a process of its own."""
