"""The published files of each data set, as a source that can be written."""

from collections.abc import Callable

from realnvp.data.published.celeba import read_celeba
from realnvp.data.published.cifar10 import read_cifar10
from realnvp.data.published.imagenet import read_imagenet
from realnvp.data.published.lsun import read_lsun
from realnvp.data.published.pictures import read_pictures
from realnvp.data.published.request import Prepared, PrepareRequest

READERS: dict[str, Callable[[PrepareRequest], Prepared]] = {
    "cifar10": read_cifar10,
    "imagenet32": read_imagenet,
    "imagenet64": read_imagenet,
    "celeba": read_celeba,
    "lsun-bedroom": read_lsun,
    "lsun-tower": read_lsun,
    "lsun-church-outdoor": read_lsun,
    "images": read_pictures,
}

__all__ = ["READERS", "PrepareRequest", "Prepared"]
