"""What a run leaves behind: journals of its tasks, the environment, and the record made of these."""
