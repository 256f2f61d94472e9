"""The learning rate over a training, as a share of the largest."""

import math


def rate(progress: float, *, rising: float, decay: float = 1.0) -> float:
    """The share at this progress, in [0, 1]: it rises to 1 as `rising` does, stays, and falls to 0 along half a cosine.

    decay: over which share of the training, its last part, it falls; 0: it does not.
    """
    falling = min(1.0, (1 - progress) / decay) if decay else 1.0
    return min(1.0, rising) * (0.5 - 0.5 * math.cos(math.pi * falling))
