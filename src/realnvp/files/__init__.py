"""What is on disk: folders written whole or not at all, checked records, saved flows, checkpoints."""
