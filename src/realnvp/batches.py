"""Training batches as functions of the step."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from realnvp.config import Config
from realnvp.data import Rows, dequantise
from realnvp.noise import Purpose, generator, uniform


class Batches:
    """Batches of images, uint8 (N, H, W, C), without a state: a resumed training sees what an uninterrupted one sees.

    Of images that are stored larger, each epoch sees another crop, a function of (seed, epoch, image).
    Each of several processes gets its part of the same batch. ValueError names train.batch_size if it does not fit.
    """

    def __init__(
        self,
        images: NDArray[np.uint8] | Rows,
        config: Config,
        *,
        device: torch.device,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        size = config.train.batch_size
        if size > len(images):
            raise ValueError(f"train.batch_size: {size}, but there are only {len(images)} training images")
        if size % processes:
            raise ValueError(f"train.batch_size: {size} cannot be divided among {processes} processes")
        self.images, self.config, self.device = images, config, device
        self.mine = slice(process, None, processes)
        self.per_epoch = len(images) // size
        self.dtype = torch.float64 if config.train.precision == "float64" else torch.float32
        self._epoch, self._order, self._flips = -1, np.empty(0, np.int64), np.empty(0, np.bool_)

    def indices(self, step: int) -> NDArray[np.int64]:
        """Which images step's batch holds, over all processes."""
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            count, seed = len(self.images), self.config.seed
            self._order = generator(seed, Purpose.ORDER, round=epoch).permutation(count)
            self._flips = generator(seed, Purpose.FLIP, round=epoch).random(count) < 0.5
            self._epoch = epoch
        size = self.config.train.batch_size
        return self._order[position * size : (position + 1) * size]

    def at(self, step: int, purpose: Purpose = Purpose.TRAIN) -> Tensor:
        """x = v + u, (B, C, H, W), this process' part of step's batch, on its device."""
        mine = self.indices(step)[self.mine]
        pixels = torch.from_numpy(self._read(mine).transpose(0, 3, 1, 2)).to(self.device)
        if self.config.data.flip:
            mirrored = torch.from_numpy(self._flips[mine]).to(self.device)
            pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
        noise = uniform(pixels.shape[1:], self.config.seed, purpose, indices=mine, round=self._epoch)
        return dequantise(pixels, noise.to(self.device, self.dtype))

    def _read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        if not isinstance(self.images, Rows) or self.images.slack == (0, 0):
            return self.images[indices]
        room = np.array(self.images.slack) + 1
        draws = [generator(self.config.seed, Purpose.CROP, index=int(i), round=self._epoch).integers(room) for i in indices]
        return self.images.crops(indices, np.stack(draws))
