"""Coupling layers (sections 3.2 to 3.4): one part of x decides how the other part changes."""

import torch
from torch import Tensor, nn

from realnvp.bijections.base import Bijection, sum_per_example
from realnvp.bijections.masks import Mask
from realnvp.bijections.precision import in_the_networks_dtype
from realnvp.bijections.splines import Spline

BINS = 16


class AffineCoupling(Bijection):
    """z = b x + (1 - b) (x exp(l(b x)) + m(b x))  (eq 9);  log_det = sum of (1 - b) l(b x)  (eq 6).

    mask gives b; True: passed through unchanged, bit for bit.
    net(b x, b) gives 2C channels: the shift m, then raw, with l = bound * tanh(raw).
    With a condition it is net(b x, b, given).
    bound: where one trained scalar starts. It bounds the log-scale, so that no single step makes
    the log-scale large.
    """

    def __init__(self, mask: Mask, net: nn.Module, *, bound: float = 1.0) -> None:
        super().__init__()
        self.mask = mask
        self.net = net
        self.bound = nn.Parameter(torch.tensor(bound))

    def forward(self, x: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, terms = self.forward_map(x, given)
        return z, sum_per_example(terms)

    def forward_map(self, x: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mask, log_scale, shift = self._predict(x, given)
        return torch.where(mask, x, x * log_scale.exp() + shift), log_scale

    def _inverse(self, z: Tensor, given: Tensor | None = None) -> Tensor:
        mask, log_scale, shift = self._predict(z, given)  # b z = b x
        return torch.where(mask, z, (z - shift) * torch.exp(-log_scale))

    def _predict(self, x: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        mask = self.mask(x.shape, x.device)
        shift, raw = _of_kept_part(self.net, x, mask, given).chunk(2, dim=1)
        return mask, (self.bound * ~mask).to(raw) * raw.tanh(), shift


class AdditiveCoupling(Bijection):
    """z = b x + (1 - b) (x + m(b x));  log_det = 0.

    The coupling of NICE, the paper's predecessor [14].
    net(b x, b) gives the C channels of the shift m. With a condition it is net(b x, b, given).
    """

    def __init__(self, mask: Mask, net: nn.Module) -> None:
        super().__init__()
        self.mask = mask
        self.net = net

    def forward(self, x: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mask, shift = self._predict(x, given)
        return torch.where(mask, x, x + shift), x.new_zeros(x.shape[0])

    def _inverse(self, z: Tensor, given: Tensor | None = None) -> Tensor:
        mask, shift = self._predict(z, given)
        return torch.where(mask, z, z - shift)

    def _predict(self, x: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor]:
        mask = self.mask(x.shape, x.device)
        return mask, _of_kept_part(self.net, x, mask, given)


class SplineCoupling(Bijection):
    """z = b x + (1 - b) s(x exp(l) + m): an affine coupling, and a spline s of what it gives.

    The spline bends what an affine map leaves straight (Durkan et al. 2019), so that one column
    given others, whose mask keeps `nothing`, is not a Gaussian.

    net(b x, b) gives `numbers(bins)` times C channels: the shift m, raw with l = bound * tanh(raw),
    and the spline's numbers. With a condition it is net(b x, b, given).
    bins: of each spline.
    """

    def __init__(self, mask: Mask, net: nn.Module, *, bins: int = BINS, bound: float = 1.0) -> None:
        super().__init__()
        self.mask = mask
        self.net = net
        self.bins = bins
        self.bound = nn.Parameter(torch.tensor(bound))

    @staticmethod
    def numbers(bins: int = BINS) -> int:
        """How many numbers of the net an entry of x takes."""
        return 2 + Spline.numbers(bins)

    def forward(self, x: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, terms = self.forward_map(x, given)
        return z, sum_per_example(terms)

    def forward_map(self, x: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mask, log_scale, shift, spline = self._predict(x, given)
        z, log_slope = spline(x * log_scale.exp() + shift)
        return torch.where(mask, x, z), torch.where(mask, 0, log_scale + log_slope)

    def _inverse(self, z: Tensor, given: Tensor | None = None) -> Tensor:
        mask, log_scale, shift, spline = self._predict(z, given)  # b z = b x
        return torch.where(mask, z, (spline.inverse(z) - shift) * torch.exp(-log_scale))

    def _predict(self, x: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Spline]:
        mask = self.mask(x.shape, x.device)
        numbers = _of_kept_part(self.net, x, mask, given)
        numbers = numbers.reshape(len(x), -1, *x.shape[1:]).movedim(1, -1)  # (B, C, ..., numbers)
        shift, raw = numbers[..., 0], numbers[..., 1]
        spline = Spline.of(numbers[..., 2:], self.bins)
        return mask, self.bound.to(raw) * raw.tanh(), shift, spline


def _of_kept_part(net: nn.Module, x: Tensor, mask: Tensor, given: Tensor | None) -> Tensor:
    """net(b x, b), or net(b x, b, given), in x's type."""
    # No product b x: 0 * inf would be nan.
    return in_the_networks_dtype(net, x.where(mask, 0), mask, given)
