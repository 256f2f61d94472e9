"""Images to uint8 arrays, tables to float64: found, checked, prepared once, then memory-mapped."""
