"""Files on disk: folders written whole or not at all, records, saved flows, checkpoints, runs."""
