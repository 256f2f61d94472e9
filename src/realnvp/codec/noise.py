"""Learned noise, stage by stage: joint noise depends on the noise of the stages before."""

import torch
from torch import Tensor

from realnvp.bijections import Dequantisation
from realnvp.bijections.dequantization import Bend, bends, leaning, stages
from realnvp.bijections.multiscale import even_squares, from_squares, odd_squares
from realnvp.codec.steps import Conditioned


class Noise:
    """The bends of pixels' noise.

    layer: None: uniform noise, which is not bent.
    v: levels, (B, C, H, W).
    dtype: of the bends.
    """

    def __init__(
        self, layer: Dequantisation | None, v: Tensor, context: Conditioned, dtype: torch.dtype
    ) -> None:
        self.joint, self.channels = layer is not None and layer.joint, v.shape[1]
        self.stages = stages(self.channels) if self.joint else [slice(None)]
        """The channels of `split` levels that are drawn together."""
        self.oblique = layer is not None and layer.oblique
        self.raw = self.leans = None
        if layer:
            raw, self.leans = layer.noise_numbers(v.to(dtype), context)
            squares = self.split(raw.flatten(0, 2))
            self.raw = squares.view(*raw.shape[:3], *squares.shape[1:])

    def split(self, x: Tensor) -> Tensor:
        """x, (B, C, H, W), so that a stage is a slice of its channels."""
        return torch.cat([even_squares(x), odd_squares(x)], dim=1) if self.joint else x

    def joined(self, x: Tensor) -> Tensor:
        """Undo `split`."""
        return from_squares(*x.chunk(2, dim=1)) if self.joint else x

    def moved_by(self, stage: int) -> slice | None:
        """The channels whose noise moves the stage's cells. None: there are none."""
        odd, channel = divmod(stage, self.channels)
        return self.stages[odd * self.channels] if self.oblique and channel else None

    def bends(self, stage: int, u: Tensor) -> list[Bend]:
        """The bends of a stage.

        u: the noise, split, which is known of the stages before.
        """
        if self.raw is None:
            return []
        raw = self.raw[:, :, :, self.stages[stage]]
        if self.leans is None:
            return bends(raw, None)
        odd, channel = divmod(stage, self.channels)
        squares = odd_squares if odd else even_squares
        return bends(raw, squares(leaning(self.leans, self.joined(u), channel)))
