"""The models that come with stratbench: one file each, found by being there."""
