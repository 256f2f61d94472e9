"""Coupling layers (sections 3.2 to 3.4): one part of x decides how the other part changes."""

import torch
from torch import Tensor, nn

from realnvp.bijections.base import Bijection, in_the_networks_dtype, sum_per_example
from realnvp.bijections.masks import Mask
from realnvp.bijections.splines import RQSpline


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

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, terms = self.pointwise_log_det(x, context)
        return z, sum_per_example(terms)

    def pointwise_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mask, log_scale, shift = self._predict(x, context)
        return torch.where(mask, x, x * log_scale.exp() + shift), log_scale

    def _inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        mask, log_scale, shift = self._predict(z, context)  # b z = b x
        return torch.where(mask, z, (z - shift) * torch.exp(-log_scale))

    def _predict(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        mask = self.mask(x.shape, x.device)
        shift, raw = _of_kept_part(self.net, x, mask, context).chunk(2, dim=1)
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

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.pointwise_log_det(x, context)[0], x.new_zeros(x.shape[0])

    def pointwise_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mask, shift = self._predict(x, context)
        return torch.where(mask, x, x + shift), x.new_zeros(()).expand(x.shape)

    def _inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        mask, shift = self._predict(z, context)
        return torch.where(mask, z, z - shift)

    def _predict(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        mask = self.mask(x.shape, x.device)
        return mask, _of_kept_part(self.net, x, mask, context)


class SplineCoupling(Bijection):
    """z = b x + (1 - b) s(x exp(l) + m): an affine coupling, and a spline s of what it gives.

    The spline bends what an affine map leaves straight (Durkan et al. 2019).

    net(b x, b) gives `NUMBERS` times C channels, of each entry the numbers of a `BentLine`; with a
    condition it is net(b x, b, given). 3K + 1 times C channels give splines of K bins.
    bound: where one trained scalar starts, the bound of the log-scale l.
    """

    NUMBERS = 3 * 16 + 1
    """Numbers of the net for each entry of x, with 16 bins."""

    def __init__(self, mask: Mask, net: nn.Module, *, bound: float = 1.0) -> None:
        super().__init__()
        self.mask = mask
        self.net = net
        self.bound = nn.Parameter(torch.tensor(bound))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, terms = self.pointwise_log_det(x, context)
        return z, sum_per_example(terms)

    def pointwise_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mask, spline = self._predict(x, context)
        z, log_slope = spline(x)
        return torch.where(mask, x, z), torch.where(mask, 0, log_slope)

    def _inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        mask, spline = self._predict(z, context)  # b z = b x
        return torch.where(mask, z, spline.inverse(z))

    def _predict(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, RQSpline]:
        mask = self.mask(x.shape, x.device)
        numbers = _of_kept_part(self.net, x, mask, context).reshape(x.shape[0], -1, *x.shape[1:])
        return mask, RQSpline.of(numbers.movedim(1, -1), self.bound)


class Elementwise(Bijection):
    """z = s(x exp(l) + m) of each entry alone; l, m and the spline s depend on the condition only.

    One column given others is so more than a Gaussian whose mean and deviation depend on them.
    x is (B, C, ...); the entries of a channel share their map.

    net(0, b, given) gives what `SplineCoupling`'s gives, from C zeros and b, which is False:
    nothing is kept. Without a condition it is net(0, b).
    """

    NUMBERS = SplineCoupling.NUMBERS
    """Numbers of the net for each channel of x, with 16 bins."""

    def __init__(self, net: nn.Module, *, bound: float = 1.0) -> None:
        super().__init__()
        self.net = net
        self.bound = nn.Parameter(torch.tensor(bound))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, terms = self.pointwise_log_det(x, context)
        return z, sum_per_example(terms)

    def pointwise_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._predict(x, context)(x)

    def _inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self._predict(z, context).inverse(z)

    def _predict(self, x: Tensor, context: Tensor | None) -> RQSpline:
        zeros = x.new_zeros(x.shape[:2])
        numbers = in_the_networks_dtype(
            self.net, zeros, zeros.new_zeros((), dtype=torch.bool), context
        )
        shared = numbers.reshape(x.shape[0], -1, x.shape[1], *[1] * (x.ndim - 2))
        return RQSpline.of(shared.movedim(1, -1), self.bound)


def _of_kept_part(net: nn.Module, x: Tensor, mask: Tensor, context: Tensor | None) -> Tensor:
    """net(b x, b), or net(b x, b, given), in x's type."""
    # No product b x: 0 * inf would be nan.
    return in_the_networks_dtype(net, x.where(mask, 0), mask, context)
