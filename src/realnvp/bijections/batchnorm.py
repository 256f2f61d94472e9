"""Batch norm of a coupling layer's output as a bijection (section 3.7, appendix E)."""

from torch import Tensor

from realnvp.bijections.base import Bijection
from realnvp.tools.moments import EPS, MovingMoments, per_channel


class BatchNorm(Bijection):
    """z = (x - mean) / sqrt(var + eps) for each channel.

    log_det = -H W sum over channels of .5 log(var + eps).

    x is (B, C, ...). No gain and no shift. mean and var: `MovingMoments`, eq 15-16.
    """

    def __init__(self, channels: int, *, momentum: float = 0.0) -> None:
        super().__init__()
        self.moments = MovingMoments(channels, momentum=momentum)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = self._moments(x)
        log_det = -0.5 * (var + EPS).log().expand(x.shape[1:]).sum()
        return (x - mean) * (var + EPS).rsqrt(), log_det.expand(x.shape[0])

    def forward_map(self, x: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mean, var = self._moments(x)
        return (x - mean) * (var + EPS).rsqrt(), -0.5 * (var + EPS).log().expand(x.shape)

    def _inverse(self, z: Tensor) -> Tensor:
        mean, var = self._moments(z)
        return z * (var + EPS).sqrt() + mean

    def _moments(self, x: Tensor) -> list[Tensor]:
        return [per_channel(moment, x) for moment in self.moments(x)]
