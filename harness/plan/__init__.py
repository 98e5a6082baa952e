"""What to run: specs, models, learning rates, faults, and which task and which cores belong to which replica."""
