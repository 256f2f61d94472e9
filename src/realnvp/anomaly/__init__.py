"""Odd images: a verdict with a known rate of false alarms, and where."""

from realnvp.anomaly.detector import AnomalyDetector

__all__ = ["AnomalyDetector"]
