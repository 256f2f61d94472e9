"""Training batches as functions of the step."""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from realnvp.config.fields import Config, TableData
from realnvp.data.dataset import Crops, Indices, Split, Values, channels_first, dequantize
from realnvp.device import as_tensor, moved, pinned
from realnvp.random import Purpose, generator, uniform


def spread_of(rows: Tensor) -> Tensor:
    """The factor of unit noise: a matrix, (D, D), for rows; deviations, (C, H, W), for images.

    As in `InvertibleLinear`, the covariance of few rows is drawn towards its diagonal. So columns
    that depend on each other get noise in every direction, too.
    """
    exact = rows.double()
    deviation = exact.std(0, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1)
    if rows.ndim > 2:
        return deviation.to(rows.dtype).to(rows.device)
    scaled = (exact - exact.mean(0)) / deviation
    n, dim = rows.shape
    correlation = (scaled.T @ scaled / n).lerp(torch.ones_like(scaled[0]).diag(), dim / (n + dim))
    return (deviation[:, None] * torch.linalg.cholesky(correlation)).to(rows.dtype).to(rows.device)


class Batches:
    """Batches of images, (N, H, W, C), or of rows, float64 (N, D), without any state.

    Images that are stored larger, and pictures of any sizes, are cropped, in each epoch elsewhere.
    Each of several processes gets its part of a batch. ValueError: train.batch_size does not fit.
    """

    def __init__(
        self,
        images: Split,
        config: Config,
        *,
        device: torch.device,
        process: int = 0,
        processes: int = 1,
        labels: Indices | None = None,
    ) -> None:
        size, table = config.train.batch_size, isinstance(config.data, TableData)
        if table and len(images) >= processes:  # of a small table all rows are a batch
            size = min(size, len(images) // processes * processes)
        if size > len(images):
            raise ValueError(f"train.batch_size: {size} of {len(images)} training images (rows)")
        if size % processes:
            raise ValueError(f"train.batch_size: {size} is no multiple of {processes} processes")
        self.images, self.config, self.device, self.size = images, config, device, size
        self.labels = labels
        self.mine = slice(process, None, processes)
        self.per_epoch = len(images) // size
        # Of 65,536 levels float32 leaves 8 bits for the noise.
        double = table or config.levels > 256 or config.train.precision == "float64"
        self.dtype = torch.float64 if double else torch.float32
        self.spread = None
        if isinstance(config.data, TableData) and config.data.noise:
            self.spread = config.data.noise * spread_of(as_tensor(images[:])).numpy()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: dict[int, Future[tuple[Tensor, Tensor | None]]] = {}

    def indices(self, step: int) -> Indices:
        """The images of the step's batch, over all processes."""
        epoch, position = divmod(step, self.per_epoch)
        order = _order(self.config.seed, epoch, len(self.images))
        return order[position * self.size : (position + 1) * self.size]

    def at(self, step: int, purpose: Purpose = Purpose.TRAIN) -> Tensor:
        """x, (B, C, H, W) or (B, D): this process' part of the step's batch, on its device.

        Images are v + u. A table's rows are float64: nothing is rounded before the flow has
        standardized it. The next training batch is read ahead.
        """
        reading = self._ahead.pop(step, None) if purpose == Purpose.TRAIN else None
        values, noise = reading.result() if reading else self._read(step, purpose)
        if purpose == Purpose.TRAIN:
            self._ahead = {step + 1: self._reader.submit(self._read, step + 1, purpose)}
        x = moved(values, self.device)
        return x if noise is None else dequantize(x, moved(noise, self.device).to(self.dtype))

    def condition_on(self, steps: Iterable[int]) -> tuple[Tensor, ...]:
        """The classes of these steps' batches, (B,), to follow their x. (): they have none."""
        if self.labels is None:
            return ()
        rows = np.concatenate([self.indices(step)[self.mine] for step in steps])
        return (moved(torch.from_numpy(self.labels[rows]), self.device),)

    def _read(self, step: int, purpose: Purpose) -> tuple[Tensor, Tensor | None]:
        """Gray levels, augmented, and noise, both (B, C, H, W); of a table rows, (B, D), and None.

        They are pinned already, so that copy, too, is made ahead.
        """
        epoch, seed, mine = step // self.per_epoch, self.config.seed, self.indices(step)[self.mine]
        if isinstance(self.config.data, TableData):
            rows = self.images[mine]
            if self.spread is not None and purpose == Purpose.TRAIN:
                draws = generator(seed, Purpose.TRAIN, index=step)
                normal = draws.standard_normal((self.size, len(self.spread)))[self.mine]
                rows = rows + normal @ self.spread.T
            return pinned(torch.from_numpy(rows).to(self.dtype), self.device), None
        pixels = self._augmented(self._pixels(mine, epoch), mine, epoch)
        values = torch.from_numpy(channels_first(pixels))
        noise = uniform(values.shape[1:], seed, purpose, indices=mine, round=epoch)
        return pinned(values, self.device), pinned(noise, self.device)

    def _augmented(self, pixels: Values, indices: Indices, epoch: int) -> Values:
        augment, seed, count = self.config.images.augment, self.config.seed, len(self.images)
        if "hflip" in augment:
            mirrored = _draws(seed, Purpose.FLIP, epoch, count)[indices] < 0.5
            pixels[mirrored] = pixels[mirrored, :, ::-1]
        if "rotate90" in augment:
            turns = (4 * _draws(seed, Purpose.TURN, epoch, count)[indices]).astype(int)
            for k in range(1, 4):
                pixels[turns == k] = np.rot90(pixels[turns == k], k, axes=(1, 2))
        if "channel_shuffle" in augment:
            orders = _orders(seed, epoch, count, pixels.shape[-1])[indices]
            pixels = np.take_along_axis(pixels, orders[:, None, None], axis=-1)
        if "brightness" in augment:
            # For all of an image; the share of the range that is left to it, so none is cut off.
            share = _draws(seed, Purpose.BRIGHTNESS, epoch, count)[indices]
            most = self.config.levels // 16
            darkest, brightest = pixels.min((1, 2, 3)), pixels.max((1, 2, 3))
            down = np.minimum(most, darkest.astype(int))
            up = np.minimum(most, self.config.levels - 1 - brightest.astype(int))
            change = np.floor(share * (down + up + 1)).astype(int) - down
            pixels = (pixels + change[:, None, None, None]).astype(pixels.dtype)
        return pixels

    def _pixels(self, indices: Indices, epoch: int) -> Values:
        if not isinstance(self.images, Crops):
            return self.images[indices]
        room = self.images.room(indices)
        corners = [
            generator(self.config.seed, Purpose.CROP, index=int(i), round=epoch).integers(places)
            for i, places in zip(indices, room, strict=True)
        ]
        return self.images.crops(indices, np.stack(corners))


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> Indices:
    return generator(seed, Purpose.ORDER, round=epoch).permutation(count)


@lru_cache(maxsize=6)
def _draws(seed: int, purpose: Purpose, epoch: int, count: int) -> NDArray[np.float64]:
    return generator(seed, purpose, round=epoch).random(count)


@lru_cache(maxsize=2)
def _orders(seed: int, epoch: int, count: int, channels: int) -> Indices:
    orders = np.tile(np.arange(channels), (count, 1))
    return generator(seed, Purpose.SHUFFLE, round=epoch).permuted(orders, axis=1)
