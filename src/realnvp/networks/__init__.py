"""Functions inside couplings: the networks that predict shift and log-scale. They know no bijection."""
