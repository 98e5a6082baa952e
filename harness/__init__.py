"""The top of the house: command line, spec, launcher, worker and the measured loop."""
