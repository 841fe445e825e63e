"""Random augmentation on the device: scale, crop and flip, colour jitter, blur, and any of Kornia's."""

import dataclasses
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from torch import nn

from dalib import OptionGroup, SetupContext, Step, Strategy, Stream, hookimpl
from dalib.options import Count, NotNegative, Probability
from dalib_plugins.ranges import Interval, OddCount, Share, Streams
from dalib_plugins.view import draw_view
from dalib_plugins.warp import apply, make_augmentation, make_warp


class Blur(OptionGroup):
    """Options of Gaussian blur: odd kernel size and range of sigma, both in pixels, and the probability ``p``."""

    kernel: OddCount = 3
    sigma: Interval = (0.2, 0.8)
    p: Probability = 1.0


class Augment(Strategy):
    """Augment streams, every sample with its own random parameters; geometry moves label, weight and maps along.

    First the view (scale, crop, flip), then ``kornia`` in its order, then colour jitter, then blur. Pixels from outside
    the image get label 255, weight 0, and 0 in the stream's ``extra`` maps, whose values are else as they were.

    Options:
        streams: which to augment, each with its own random parameters.
        crop: (H, W) of the result; default: the incoming size.
        scale: range of the scale factor.
        flip: probability of a horizontal flip.
        color_jitter: strength in brightness, contrast, saturation (>= 0) and hue (0..0.5), as torchvision defines them;
            jitter_p: its probability.
        blur: Gaussian blur.
        kornia: augmentations of ``kornia.augmentation`` by class name, with their options, as
            ``{use: RandomEqualize, p: 0.5}``.
    """

    streams: Streams = field(default_factory=lambda: ["source"])
    crop: tuple[Count, Count] | None = None
    scale: Interval = (1.0, 1.0)
    flip: Probability = 0.0
    color_jitter: tuple[NotNegative, NotNegative, NotNegative, Share] | None = None
    jitter_p: Probability = 1.0
    blur: Blur | None = None
    kornia: list[dict[str, Any]] = field(default_factory=list)

    @property
    def requires(self) -> frozenset[str]:
        return frozenset(f"{stream}.image" for stream in self.streams)

    @property
    def writes(self) -> frozenset[str]:
        parts = ("image", "label", "weight", "extra") if self._has_view or self.kornia else ("image",)
        return frozenset(f"{stream}.{part}" for stream in self.streams for part in parts)

    def sizes(self, before: Mapping[str, tuple[int, int]]) -> Mapping[str, tuple[int, int]]:
        return dict.fromkeys(self.streams, self.crop) if self.crop else {}

    @hookimpl
    def setup(self, ctx: SetupContext) -> None:
        self._warps = [make_warp(self.name, **options) for options in self.kornia]
        self._filters: list[nn.Module] = []
        if self.color_jitter:
            names = ("brightness", "contrast", "saturation", "hue")
            strengths = dict(zip(names, self.color_jitter, strict=True))
            self._filters.append(make_augmentation(self.name, "ColorJitter", p=self.jitter_p, **strengths))
        if self.blur:
            options = {"kernel_size": (self.blur.kernel,) * 2, "sigma": self.blur.sigma, "p": self.blur.p}
            self._filters.append(make_augmentation(self.name, "RandomGaussianBlur", **options))

    @hookimpl
    def pre_batch(self, step: Step) -> None:
        for name in self.streams:
            before = step.batch[name]
            after = self._filter(self._warp(self._view(before)))
            unchanged = before.fields()
            step.batch.write(name, **{k: v for k, v in after.fields().items() if v is not unchanged.get(k)})

    def _view(self, stream: Stream) -> Stream:
        if not self._has_view:
            return stream
        crop = self.crop or stream.size
        view = draw_view(len(stream.image), stream.size, crop, self.scale, self.flip, stream.image.device)
        return view.stream(stream, interpolate=self.scale != (1.0, 1.0))

    def _warp(self, stream: Stream) -> Stream:
        for augmentation in self._warps:
            stream = apply(augmentation, stream)
        return stream

    def _filter(self, stream: Stream) -> Stream:
        image = stream.image
        for augmentation in self._filters:
            image = augmentation(image)
        return dataclasses.replace(stream, image=image)

    @property
    def _has_view(self) -> bool:
        return self.crop is not None or self.scale != (1.0, 1.0) or self.flip > 0
