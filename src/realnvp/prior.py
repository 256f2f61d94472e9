"""The prior of the latents (section 4.1): an isotropic unit Gaussian."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


class StandardNormal(nn.Module):
    """N(0, I). A prior is anything with these two methods."""

    def log_prob(self, z: Tensor) -> Tensor:
        """(B,): log N(z; 0, I) in nats."""
        return -0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1)

    def sample(self, shape: Sequence[int], generator: np.random.Generator) -> Tensor:
        """z of this shape, float64."""
        return torch.from_numpy(generator.standard_normal(tuple(shape)))
