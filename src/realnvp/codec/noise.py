"""Learned noise, stage by stage: joint noise depends on the noise of the stages before."""

import torch
from torch import Tensor

from realnvp.bijections import VariationalDequantization
from realnvp.bijections.dequantization import Bend, bends, lean, stages
from realnvp.bijections.multiscale import even_squares, from_squares, odd_squares
from realnvp.codec.steps import Conditioned


class Noise:
    """The bends of pixels' noise.

    layer: None: uniform noise, which is not bent.
    v: levels, (B, C, H, W).
    dtype: of the bends.
    """

    def __init__(
        self,
        layer: VariationalDequantization | None,
        v: Tensor,
        context: Conditioned,
        dtype: torch.dtype,
    ) -> None:
        self.learned, self.channels = layer is not None, v.shape[1]
        self.stages = stages(self.channels) if self.learned else [slice(None)]
        """The channels of `split` levels that are drawn together."""
        self.raw: Tensor | None = None
        if layer:
            raw, self.leans = layer.parameters_of(v.to(dtype), context)
            squares = self.split(raw.flatten(0, 2))
            self.raw = squares.view(*raw.shape[:3], *squares.shape[1:])

    def split(self, x: Tensor) -> Tensor:
        """x, (B, C, H, W), so that a stage is a slice of its channels."""
        return torch.cat([even_squares(x), odd_squares(x)], dim=1) if self.learned else x

    def joined(self, x: Tensor) -> Tensor:
        """Undo `split`."""
        return from_squares(*x.chunk(2, dim=1)) if self.learned else x

    def moved_by(self, stage: int) -> slice | None:
        """The channels whose noise moves the stage's cells. None: there are none."""
        odd, channel = divmod(stage, self.channels)
        return self.stages[odd * self.channels] if self.learned and channel else None

    def bends(self, stage: int, u: Tensor) -> list[Bend]:
        """The bends of a stage.

        u: the noise, split, which is known of the stages before.
        """
        if self.raw is None:
            return []
        raw = self.raw[:, :, :, self.stages[stage]]
        odd, channel = divmod(stage, self.channels)
        squares = odd_squares if odd else even_squares
        return bends(raw, squares(lean(self.leans, self.joined(u), channel)))
