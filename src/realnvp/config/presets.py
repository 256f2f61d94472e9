"""The paper's configurations, ours, and the differences between one and the paper's."""

from dataclasses import replace
from typing import Any

from realnvp.config.fields import MAY_CHANGE, Config, ImageData, ModelConfig, TableData, TrainConfig
from realnvp.config.json import differences

_IMAGENET64 = Config(
    "imagenet64",
    ImageData("imagenet64", shape=(3, 64, 64), val_fraction=0.01),
    ModelConfig(num_scales=5, num_blocks=2),
)


def _like_imagenet64(name: Any) -> Config:
    return replace(
        _IMAGENET64, name=name, data=replace(_IMAGENET64.images, set=name, augment=("hflip",))
    )


_SHORT = TrainConfig(
    max_steps=2000, batch_size=32, eval_every=250, sample_every=250, save_every=250
)

PRESETS: dict[str, Config] = {
    "cifar10": Config(
        "cifar10",
        ImageData("cifar10", shape=(3, 32, 32), augment=("hflip",)),
        ModelConfig(num_scales=2, width=64, num_blocks=8, momentum=0.9),
    ),
    "imagenet32": Config(
        "imagenet32",
        ImageData("imagenet32", shape=(3, 32, 32), val_fraction=0.01),
        ModelConfig(num_scales=4),
    ),
    "imagenet64": _IMAGENET64,
    "celeba": _like_imagenet64("celeba"),
    "lsun-bedroom": _like_imagenet64("lsun-bedroom"),
    "lsun-tower": _like_imagenet64("lsun-tower"),
    "lsun-church-outdoor": _like_imagenet64("lsun-church-outdoor"),
    "photos": Config(
        "photos",
        ImageData("photos", shape=(3, 32, 32), augment=("hflip",)),
        ModelConfig(num_scales=4, width=16, num_blocks=2),
        # In minutes of training a higher rate and almost no clip are worth .1 bits/dim
        # (docs/experiments.md).
        replace(
            _SHORT,
            max_steps=1500,
            batch_size=16,
            lr=2e-3,
            grad_clip=1e4,
            eval_every=300,
            sample_every=300,
            save_every=300,
        ),
    ),
    "digits": Config(
        "digits",
        ImageData("digits", shape=(1, 8, 8), levels=17),
        ModelConfig(num_scales=2, num_blocks=2),
        _SHORT,
    ),
    "images": Config(train=_SHORT),
    "table": Config(
        "table",
        TableData(),
        ModelConfig("vector", num_couplings=16, num_blocks=1, width=64, sine_std=6.0),
        replace(
            _SHORT,
            max_steps=4000,
            batch_size=512,
            lr=5e-3,
            warmup=50,
            decay=1.0,
            grad_clip=10.0,
            l2=0.0,
            eval_every=100,
            # The best models differ by less than .01 nats: with a thousand rows luck would choose.
            eval_images=10_000,
            # Small tables overfit soon: two moons are best at step 400 (docs/experiments.md).
            patience=10,
        ),
    ),
}

# Not the paper's: layers of later flows, trained as many minutes (docs/experiments.md).
_MODERN = ModelConfig("modern", width=48, growth=1.5, num_blocks=1, num_couplings=6)
# Most couplings where most of the bits are: at the first scale.
_FINE = {"growth": 2.0, "num_couplings": 9, "coupling_decay": 0.35}
_DECAYED = replace(_SHORT, muon_weight_decay=0.1)


def _modernized(paper: Config, train: TrainConfig, **model: Any) -> Config:
    return replace(
        paper,
        name=f"{paper.name}-modern",
        model=replace(_MODERN, **model),
        train=replace(
            train,
            precision="auto",
            lr=5e-3,
            muon_lr=0.02,
            warmup=50,
            decay=0.5,
            ema_decay=0.998,
            grad_clip=1e4,
            skip_factor=10.0,
            l2=0.0,
        ),
    )


PRESETS |= {
    f"{name}-modern": _modernized(PRESETS[name], train, **model)
    for name, train, model in (
        (
            "photos",
            replace(_DECAYED, max_steps=1500, eval_every=300, sample_every=300, save_every=300),
            {"num_scales": 3} | _FINE,
        ),
        ("digits", _DECAYED, {"num_scales": 1, "width": 32}),
        ("images", _DECAYED, _FINE),
        ("cifar10", TrainConfig(), {"num_scales": 3, "width": 128, "num_couplings": 12}),
        ("imagenet32", TrainConfig(), {"num_scales": 3, "width": 160, "num_couplings": 16}),
        ("imagenet64", TrainConfig(), {"num_scales": 4, "width": 128, "num_couplings": 16}),
    )
}

# The paper's bits/dim: Table 1 of its first version (2016). The 64x64 sets without a number there
# have the number of the last version (2017), which has 3.98 for ImageNet 64x64.
PAPER: dict[str, float] = {
    "cifar10": 3.49,
    "imagenet32": 4.28,
    "imagenet64": 4.01,
    "celeba": 3.02,
    "lsun-bedroom": 2.72,
    "lsun-tower": 2.81,
    "lsun-church-outdoor": 3.08,
}


def departures(config: Config) -> list[str]:
    """Dotted names of the fields in which this departs from the paper's experiment on its data set.

    Empty for data sets that the paper does not have.
    """
    if config.data.set not in PAPER:
        return []
    # The paper does not specify these.
    return [
        field
        for field in differences(PRESETS[config.data.set], config)
        if field not in MAY_CHANGE | {"name", "seed", "data.source", "data.val_fraction"}
    ]


def paper_bits_per_dim(config: Config) -> float | None:
    """The paper's bits/dim for this configuration. None: it has none, or this departs from it."""
    return None if departures(config) else PAPER.get(config.data.set)
