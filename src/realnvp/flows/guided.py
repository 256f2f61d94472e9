"""Guidance: samples that show their class more clearly than the model has learned it."""

import copy

from torch import Tensor, nn

from realnvp.bijections import AdditiveCoupling, AffineCoupling
from realnvp.config.fields import AT_LEAST_ZERO, check_number
from realnvp.flows.context import Classes
from realnvp.flows.flow import Flow, check_is_flow


def guided(flow: Flow, weight: float) -> Flow:
    """A flow for pictures, with the same networks, whose couplings overstate what a class changes.

    Each network says (1 + weight) times what it says given the class, less weight times what it
    says given none: shift and log-scale as in Jet and TarFlow. 0: the flow's own samples.
    The result is a density of its own, no longer the model's: `bits_per_dim` and `save_flow` refuse
    it.

    ValueError: the flow is not given classes.
    """
    check_is_flow(flow)
    if not isinstance(flow.condition, Classes):
        raise ValueError("guidance: this flow is not given classes")
    weight = check_number("guidance", weight, float, AT_LEAST_ZERO)
    couplings = [m for m in flow.modules() if isinstance(m, AffineCoupling | AdditiveCoupling)]
    copies: dict[int, nn.Module] = {id(each.net): _Guided(each.net, weight) for each in couplings}
    copied = copy.deepcopy(flow, copies)  # it takes the guided networks as copies it made
    copied.exact, copied.made_by = False, "realnvp.guided, with another density"
    return copied.train(flow.training)


class _Guided(nn.Module):
    """(1 + weight) net(x, mask, given) - weight net(x, mask, 0)."""

    def __init__(self, net: nn.Module, weight: float) -> None:
        super().__init__()
        self.net, self.weight = net, weight

    def forward(self, x: Tensor, mask: Tensor, context: Tensor) -> Tensor:
        with_class = self.net(x, mask, context)
        without = self.net(x, mask, context.new_zeros(context.shape))
        return with_class + self.weight * (with_class - without)
