"""The data of a run: journals of its tasks, the environment, and the record built from these."""
