"""Tools of every room: randomness, batch norm's moments, the device, progress."""
