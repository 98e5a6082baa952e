"""What to run: specs, models, learning rates, faults, and the tasks and cores of each replica."""
