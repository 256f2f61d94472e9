"""A bijection and a prior make a density: here networks meet bijections."""
