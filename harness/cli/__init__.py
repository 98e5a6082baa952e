"""The command line: commands, options, listings, progress, doctor. Nothing else imports it."""
