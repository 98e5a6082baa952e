"""What the runs say about the strategies: repeats together, speed-ups, efficiencies."""
