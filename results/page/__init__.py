"""The report: one HTML page with the answer in words, tables and pictures, and the pictures as files."""
