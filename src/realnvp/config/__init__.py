"""Configurations as frozen dataclasses, the presets, and their JSON. Never imports torch."""
