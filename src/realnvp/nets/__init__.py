"""Functions inside couplings: networks that predict shift and log-scale, and know no bijection."""
