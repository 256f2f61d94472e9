"""Measurements that take minutes or more; what they found is in docs/."""
