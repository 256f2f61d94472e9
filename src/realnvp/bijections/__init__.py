"""Invertible maps with a tractable log-determinant."""

from realnvp.bijections.actnorm import ActNorm
from realnvp.bijections.base import Bijection
from realnvp.bijections.batchnorm import BatchNorm
from realnvp.bijections.chain import Chain
from realnvp.bijections.coupling import (
    AdditiveCoupling,
    AffineCoupling,
    Elementwise,
    SplineCoupling,
)
from realnvp.bijections.dequantisation import (
    Dequantisation,
    JointDequantisation,
    ObliqueDequantisation,
)
from realnvp.bijections.given import Given
from realnvp.bijections.logit import Logit
from realnvp.bijections.masks import bitwise, channelwise, checkerboard
from realnvp.bijections.mixing import Mixing
from realnvp.bijections.multiscale import FactorOut, Squeezed, latent_levels
from realnvp.bijections.regression import Regression
from realnvp.bijections.sinh_arcsinh import SinhArcsinh
from realnvp.bijections.start import starting

__all__ = [
    "ActNorm",
    "AdditiveCoupling",
    "AffineCoupling",
    "BatchNorm",
    "Bijection",
    "Chain",
    "Dequantisation",
    "Elementwise",
    "FactorOut",
    "Given",
    "JointDequantisation",
    "Logit",
    "Mixing",
    "ObliqueDequantisation",
    "Regression",
    "SinhArcsinh",
    "SplineCoupling",
    "Squeezed",
    "bitwise",
    "channelwise",
    "checkerboard",
    "latent_levels",
    "starting",
]
