"""A network that looks at a pixel and its neighbourhood."""

from torch import Tensor, nn


class PixelNet(nn.Module):
    """Three dilated convolutions and a classifier, all at full resolution.

    dalib normalises images by ``mean`` and ``std`` before they come here, and resizes what goes out where it must.
    """

    mean = (0.5, 0.5, 0.5)
    std = (0.25, 0.25, 0.25)

    def __init__(self, num_classes: int, *, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels, dilation in ((3, 1), (width, 2), (width, 4)):
            convolution = nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation, bias=False)
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map normalised images (B, 3, H, W) to ``logits`` (B, K, H, W) and the ``features`` below them."""
        features = self.body(x)
        return {"logits": self.classifier(features), "features": features}
