"""Comparison of strategies: repeats put together, speed-ups, efficiencies."""
