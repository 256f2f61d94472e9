"""Flows as scikit-learn's estimators: densities of tables, outliers, regression, classes.

Needs the extra `realnvp[sklearn]`.
"""

from realnvp.sklearn.conditional import RealNVPClassifier, RealNVPRegressor
from realnvp.sklearn.density import RealNVPDensity, RealNVPOutlier

__all__ = ["RealNVPClassifier", "RealNVPDensity", "RealNVPOutlier", "RealNVPRegressor"]
