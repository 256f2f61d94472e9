"""Memory for time: what is computed again for the gradient is not kept."""

from realnvp.bijections import AdditiveCoupling, AffineCoupling, BatchNorm
from realnvp.flows.flow import Flow


def recompute(flow: Flow) -> Flow:
    """The same flow; of each coupling and batch norm, training then keeps the input alone, and computes the rest again."""
    for module in flow.modules():
        if isinstance(module, AffineCoupling | AdditiveCoupling | BatchNorm):
            module.recompute = True
    return flow
