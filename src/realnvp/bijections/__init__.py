"""Invertible maps with a tractable log-determinant."""

from realnvp.bijections.base import Bijection, Chain, Conditioned, data_dependent_init
from realnvp.bijections.coupling import (
    AdditiveCoupling,
    AffineCoupling,
    Elementwise,
    SplineCoupling,
)
from realnvp.bijections.dequantization import (
    Dequantisation,
    JointDequantisation,
    ObliqueDequantisation,
)
from realnvp.bijections.linear import InvertibleLinear, Regression, SinhArcsinh
from realnvp.bijections.masks import bitwise, channelwise, checkerboard
from realnvp.bijections.multiscale import FactorOut, Squeezed, latent_levels
from realnvp.bijections.norms import ActNorm, BatchNorm, Logit

__all__ = [
    "ActNorm",
    "AdditiveCoupling",
    "AffineCoupling",
    "BatchNorm",
    "Bijection",
    "Chain",
    "Conditioned",
    "Dequantisation",
    "Elementwise",
    "FactorOut",
    "InvertibleLinear",
    "JointDequantisation",
    "Logit",
    "ObliqueDequantisation",
    "Regression",
    "SinhArcsinh",
    "SplineCoupling",
    "Squeezed",
    "bitwise",
    "channelwise",
    "checkerboard",
    "data_dependent_init",
    "latent_levels",
]
