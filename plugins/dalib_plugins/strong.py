"""DACS's strong augmentation of self-trained images: colour jitter, then blur, drawn for each image."""

import math

from torch import Tensor, nn

from dalib_plugins.warp import make_augmentation


class Strong:
    """Colour jitter with probability ``jitter_p``, then Gaussian blur with probability ``blur_p``.

    Args:
        owner: name of the strategy, for messages.
        jitter: strength in brightness, contrast, saturation and hue.
        blur: least and greatest sigma in pixels.
    """

    def __init__(self, owner: str, jitter: float, jitter_p: float, blur: tuple[float, float], blur_p: float) -> None:
        # DACS jittered brightness by adding, as kornia's ColorJitter of its time did; ColorJiggle still does.
        strengths = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), jitter)
        # The published kernel is a tenth of the image; beyond four sigma it is zero.
        kernel = 2 * math.ceil(4 * blur[1]) + 1
        options = {"p": blur_p, "kernel_size": (kernel, kernel), "sigma": blur}
        self._filters: tuple[nn.Module, ...] = (
            make_augmentation(owner, "ColorJiggle", p=jitter_p, **strengths),
            make_augmentation(owner, "RandomGaussianBlur", **options),
        )

    def __call__(self, image: Tensor) -> Tensor:
        """Return (B, 3, H, W) in [0, 1], each image with a draw of its own."""
        for augmentation in self._filters:
            image = augmentation(image)
        return image
