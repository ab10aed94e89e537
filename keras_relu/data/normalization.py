"""Named normalisation constants: `(x / 255 - mean) / std`, one pair of constants per preset.

Several constants are in circulation for the same dataset, and a network only reaches its published accuracy with those
it was trained with. So every preset has a speaking name, every dataset a default, and a run records the name it used.
"""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from keras_relu.errors import UserError, unknown_key

__all__ = ["NORMALIZATIONS", "Normalization", "get_normalization"]


@dataclass(frozen=True)
class Normalization:
    """Per-channel (or one scalar) mean and standard deviation of images scaled to [0, 1].

    Args:
        name: the preset's name, recorded by runs.
        mean: one value per channel, or a single one for all channels.
        std: as `mean`; all positive.
        note: where the constants come from.

    Raises:
        UserError: the lengths differ or a standard deviation is not positive.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    note: str = ""

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise UserError(
                f"Normalization {self.name!r} received mean {self.mean} and std {self.std}; "
                "allowed are equally many values with every std above 0."
            )

    def apply(self, images: tf.Tensor) -> tf.Tensor:
        """uint8 `[..., C]` to float32 `[..., C]`; usable inside a graph.

        Computed as `x * a - b` with a = 1 / (255 std), b = mean / std: two passes over the batch instead of three.
        """
        scale = tf.constant([1.0 / (255.0 * s) for s in self.std], tf.float32)
        offset = tf.constant([m / s for m, s in zip(self.mean, self.std, strict=True)], tf.float32)
        return tf.cast(images, tf.float32) * scale - offset

    def check(self, channels: int) -> None:
        """Refuse images whose number of channels differs from that of the constants.

        Raises:
            UserError: neither one value nor one per channel.
        """
        if len(self.mean) not in (1, channels):
            raise UserError(
                f"Normalization {self.name!r} has {len(self.mean)} values per constant, the images have "
                f"{channels} channel(s); choose a preset with 1 or {channels}."
            )

    def to_dict(self) -> dict:
        """Name and constants, as a run records them."""
        return {"name": self.name, "mean": list(self.mean), "std": list(self.std)}


def _scaled(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(value / 255.0 for value in values)


_PRESETS = (
    Normalization("cifar10", (0.491, 0.482, 0.447), (0.247, 0.243, 0.261), "rounded statistics of the training set"),
    Normalization(
        "cifar10_exact",
        (0.49139968, 0.48215841, 0.44653091),
        (0.24703223, 0.24348513, 0.26158784),
        "statistics of the 50,000 training images",
    ),
    Normalization(
        "cifar10_image_std",
        (0.4914, 0.4822, 0.4465),
        (0.2023, 0.1994, 0.2010),
        "widespread; its std is the average of per-image stds, too small as a std of the dataset",
    ),
    Normalization(
        "cifar10_scalar",
        _scaled((120.70756512369792,)),
        _scaled((64.1500758911213,)),
        "one mean and std for all channels, as in the fusion work's training code",
    ),
    Normalization("cifar100", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), "rounded statistics"),
    Normalization(
        "cifar100_exact",
        _scaled((129.304, 124.070, 112.434)),
        _scaled((68.170, 65.392, 70.418)),
        "statistics of the 50,000 training images",
    ),
    Normalization(
        "cifar100_scalar",
        _scaled((121.90086,)),
        _scaled((68.23722,)),
        "one mean and std for all channels, as in the fusion work's training code",
    ),
    Normalization("celeba", _scaled((117.0,)), _scaled((1.0,)), "x - 117 on the 0..255 scale, not divided by a std"),
    Normalization("digits", (0.3053,), (0.3759,), "statistics of the 1,797 images"),
    Normalization("fashion_mnist", (0.28604,), (0.35302,), "statistics of the training set"),
    Normalization("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "torchvision's constants"),
    Normalization("imagenet12", (0.481, 0.458, 0.408), (0.268, 0.261, 0.275), "the 72x72 variant of ImageNet"),
    Normalization("mnist", (0.1307,), (0.3081,), "statistics of the training set"),
    Normalization("signed", (0.5,), (0.5,), "to [-1, 1]"),
    Normalization("tiny_imagenet", (0.480, 0.448, 0.398), (0.277, 0.269, 0.282), "statistics of the training set"),
    Normalization(
        "tiny_imagenet_200", (0.481, 0.448, 0.397), (0.276, 0.268, 0.282), "the decomposition work's rounding"
    ),
    Normalization("unit", (0.0,), (1.0,), "to [0, 1] only"),
)

NORMALIZATIONS: dict[str, Normalization] = {preset.name: preset for preset in _PRESETS}

_DEFAULTS = {
    "cifar10": "cifar10",
    "cifar100": "cifar100",
    "digits": "digits",
    "fashion_mnist": "fashion_mnist",
    "imagenet": "imagenet",
    "mnist": "mnist",
    "synthetic": "signed",
    "tiny_imagenet": "tiny_imagenet",
}


def get_normalization(name: str | Normalization | None, dataset: str | None = None) -> Normalization:
    """The preset `name`, or the default of `dataset` when `name` is None; an instance passes through.

    Raises:
        UserError: no preset or no dataset has that name, or neither is given.
    """
    if isinstance(name, Normalization):
        return name
    if name is None:
        if dataset not in _DEFAULTS:
            raise unknown_key("dataset", str(dataset), _DEFAULTS)
        name = _DEFAULTS[dataset]
    if name not in NORMALIZATIONS:
        raise unknown_key("normalization", name, NORMALIZATIONS)
    return NORMALIZATIONS[name]
