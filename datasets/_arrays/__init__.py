"""Arrays of the user's: structures of them, checks, and reading row by row, from memory or a file."""
