"""Published data sets: a reader for the files of each."""

from collections.abc import Callable
from pathlib import Path

from realnvp.data.published.celeba import read_celeba
from realnvp.data.published.cifar10 import read_cifar10
from realnvp.data.published.imagenet import read_imagenet
from realnvp.data.published.lsun import read_lsun
from realnvp.data.published.prepare import Published

READERS: dict[str, Callable[[Path, int], Published]] = {
    "cifar10": lambda source, seed: read_cifar10(source),
    "imagenet32": lambda source, seed: read_imagenet(source, 32),
    "imagenet64": lambda source, seed: read_imagenet(source, 64),
    "celeba": lambda source, seed: read_celeba(source),
    "lsun-bedroom": lambda source, seed: read_lsun(source, "bedroom", seed),
    "lsun-tower": lambda source, seed: read_lsun(source, "tower", seed),
    "lsun-church-outdoor": lambda source, seed: read_lsun(source, "church_outdoor", seed),
}
"""By name: (source, seed) -> the data set. The seed draws LSUN's stored squares."""
