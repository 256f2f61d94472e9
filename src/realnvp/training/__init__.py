"""Fitting flows: rows in memory, in seconds; run directories that resume to the bit."""
