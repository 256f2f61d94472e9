"""Odd images: a verdict with a known rate of false alarms, and where."""

from realnvp.odd.detector import Detector

__all__ = ["Detector"]
