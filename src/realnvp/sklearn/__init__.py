"""Flows as scikit-learn's estimators: densities of tables, outliers, regression, classes.

Needs the extra `realnvp[sklearn]`.
"""

from realnvp.config.errors import install_line

try:
    from realnvp.sklearn.conditional import RealNVPClassifier, RealNVPRegressor
    from realnvp.sklearn.density import RealNVPDensity
    from realnvp.sklearn.outlier import RealNVPOutlier
except ImportError as error:
    raise ImportError(
        f"realnvp.sklearn needs scikit-learn 1.6 or later: {install_line('sklearn')}",
        name="sklearn",
    ) from error

__all__ = ["RealNVPClassifier", "RealNVPDensity", "RealNVPOutlier", "RealNVPRegressor"]
