"""Anomaly detection in images: p-values with a guaranteed false-positive rate, and maps."""

from realnvp.anomaly.detector import AnomalyDetector

__all__ = ["AnomalyDetector"]
