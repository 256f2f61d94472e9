"""Invertible maps with a tractable log-determinant."""

from realnvp.bijections.base import Bijection, Chain, Conditioned, data_dependent_init
from realnvp.bijections.coupling import (
    Additive,
    Affine,
    Coupling,
    bitwise,
    channelwise,
    checkerboard,
    none_kept,
)
from realnvp.bijections.dequantization import VariationalDequantization
from realnvp.bijections.linear import InvertibleLinear, Regression
from realnvp.bijections.multiscale import FactorOut, Squeezed, latent_levels
from realnvp.bijections.norms import ActNorm, BatchNorm, Logit, SinhArcsinh
from realnvp.bijections.splines import RQSpline

__all__ = [
    "ActNorm",
    "Additive",
    "Affine",
    "BatchNorm",
    "Bijection",
    "Chain",
    "Conditioned",
    "Coupling",
    "FactorOut",
    "InvertibleLinear",
    "Logit",
    "RQSpline",
    "Regression",
    "SinhArcsinh",
    "Squeezed",
    "VariationalDequantization",
    "bitwise",
    "channelwise",
    "checkerboard",
    "data_dependent_init",
    "latent_levels",
    "none_kept",
]
