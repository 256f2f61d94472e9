"""A conditional bijection with its condition fixed."""

from torch import Tensor, nn

from realnvp.bijections.base import Bijection


class Given(Bijection):
    """f(x | c) of one c for all x: a bijection that is not conditional.

    given: (1, k), the numbers of c.
    """

    def __init__(self, bijection: Bijection, given: Tensor) -> None:
        super().__init__()
        self.bijection = bijection
        self.given = nn.Buffer(given, persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.bijection(x, self.given.expand(x.shape[0], -1))

    def forward_map(self, x: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.bijection.forward_map(x, self.given.expand(x.shape[0], -1))

    def _inverse(self, z: Tensor) -> Tensor:
        return self.bijection.inverse(z, self.given.expand(z.shape[0], -1))
