"""What to train on what: frozen dataclasses, the presets, and their JSON. Never imports torch."""
