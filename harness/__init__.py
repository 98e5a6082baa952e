"""The top-level package: command line, spec, launcher, worker and the measured loop."""
