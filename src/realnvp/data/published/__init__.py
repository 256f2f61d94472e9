"""Published data sets: a reader for the files of each, and their way to a prepared folder."""
