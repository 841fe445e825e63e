"""Evaluation protocols of published work, by name; scores are comparable only under the same protocol."""

import dataclasses
from dataclasses import dataclass
from itertools import product

import torch.nn.functional as F
from torch import Tensor

from dalib.errors import DataError, suggest
from dalib.hooks import Predict

Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The sizes at which a network sees images and is scored, and how images, logits and labels are resized.

    Fields, sizes being (H, W) in pixels:
        name: what a result is reported under.
        input_size: of the image that the network sees; None: the image's own.
        resample: interpolation of the image, "bilinear" or "bicubic".
        antialias: low-pass before shrinking, as PIL does and OpenCV does not.
        window, stride: of the sliding window over the input; None: the whole image at once.
        align_corners: of the bilinear resize of the logits to the scored size.
        score_size: where pixels are compared; labels are resized by nearest neighbour. None: the label's own.
        epsilon: added to every union, in pixels; a class without a labelled pixel then counts in the mean, as 0.
            Without it such a class never counts, whatever is predicted.
    """

    name: str
    input_size: Size | None = None
    resample: str = "bilinear"
    antialias: bool = True
    window: Size | None = None
    stride: Size | None = None
    align_corners: bool = False
    score_size: Size | None = None
    epsilon: float = 0.0

    def resize_image(self, image: Tensor) -> Tensor:
        """Return images (B, 3, H, W) in [0, 1] at the size that the network sees."""
        if self.input_size is None or image.shape[-2:] == self.input_size:
            return image
        # Bicubic overshoots at edges; a decoder of 8-bit images would clip there too.
        return F.interpolate(image, self.input_size, mode=self.resample, antialias=self.antialias).clamp(0, 1)

    def resize_label(self, label: Tensor) -> Tensor:
        """Return labels (B, H, W) at the size where pixels are compared."""
        if self.score_size is None or label.shape[-2:] == self.score_size:
            return label
        return F.interpolate(label[:, None].float(), self.score_size, mode="nearest-exact")[:, 0].to(label.dtype)

    def resize_logits(self, logits: Tensor, size: Size) -> Tensor:
        """Return logits (B, K, H, W) at the scored size, in float32."""
        logits = logits.float()
        if logits.shape[-2:] == size:
            return logits
        return F.interpolate(logits, size, mode="bilinear", align_corners=self.align_corners)

    def predictor(self, predict: Predict) -> Predict:
        """Return ``predict``, over sliding windows where the protocol has them."""
        if self.window is None:
            return predict
        return sliding(predict, self.window, self.stride or self.window)


def sliding(predict: Predict, window: Size, stride: Size) -> Predict:
    """Return a ``predict`` that averages the logits of overlapping windows.

    Windows start every ``stride`` pixels; the last of a row or column moves back to end with the image. An image that
    is smaller than ``window`` is one window.
    """

    def predict_windows(images: Tensor) -> Tensor:
        total: Tensor | None = None
        height, width = images.shape[-2:]
        cover = images.new_zeros(1, 1, height, width)
        for top, left in product(_starts(height, window[0], stride[0]), _starts(width, window[1], stride[1])):
            here = (..., slice(top, top + window[0]), slice(left, left + window[1]))
            logits = predict(images[here])
            if total is None:
                total = logits.new_zeros(*logits.shape[:2], height, width)
            total[here] += logits
            cover[here] += 1
        assert total is not None
        return total.div_(cover)

    return predict_windows


def _starts(length: int, window: int, stride: int) -> list[int]:
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def get_protocol(protocol: "str | Protocol") -> Protocol:
    """Return the protocol of that name; a ``Protocol`` is returned as it is.

    Raises:
        DataError: no protocol has the name.
    """
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise DataError(f"no evaluation protocol is called {protocol!r}.{suggest(protocol, PROTOCOLS)}")
    return PROTOCOLS[protocol]


# The official code resizes logits from 1/8 to the label's size at once; here a model resizes them to its input's size
# first, so two resizes replace one.
_CLASSIC = Protocol(name="classic", input_size=(512, 1024), resample="bicubic", align_corners=True)

PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol(name="full"),
        dataclasses.replace(_CLASSIC, name="adaptsegnet"),
        dataclasses.replace(_CLASSIC, name="advent"),
        dataclasses.replace(_CLASSIC, name="fda", input_size=(576, 1344)),
        dataclasses.replace(_CLASSIC, name="dacs", score_size=(512, 1024)),
        Protocol(name="daformer", input_size=(512, 1024), antialias=False),
        Protocol(name="hrda", input_size=(1024, 2048), antialias=False, window=(1024, 1024), stride=(512, 512)),
        Protocol(name="pidnet", input_size=(1024, 2048), antialias=False),
        Protocol(name="mldl2024", input_size=(1024, 512), score_size=(1024, 512), epsilon=1e-5),
    )
}
"""The protocols by name. ``full``, the default, feeds images at their own size and scores at the label's own size.

``adaptsegnet``, ``advent``, ``fda``, ``dacs``, ``daformer``, ``hrda`` and ``pidnet`` are those of the official code of
each method on Cityscapes; ``dacs`` scores on labels shrunk to 512 x 1024. ``mldl2024`` is that of the student project
"Real-time Domain Adaptation in Semantic Segmentation": portrait images, 1024 high and 512 wide, and absent classes
counted as 0.
"""
