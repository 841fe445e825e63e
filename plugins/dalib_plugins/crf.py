"""The fully connected CRF (Kraehenbuehl & Koltun 2011), which aligns predictions with image edges."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalib import Predict, Strategy, hookimpl
from dalib.options import Count, NotNegative, Positive, Whole
from dalib_plugins.cell_filter import CellFilter

TRUNCATION = 4  # standard deviations of position after which the smoothness kernel is cut


class Crf(Strategy):
    """Refine every prediction by mean-field inference, at evaluation and prediction only.

    Potts labels under an appearance and a smoothness kernel between all pairs of pixels (their equation 3):

    ``k(i, j) = w_a exp(-|p_i - p_j|^2 / 2 s_a^2 - |I_i - I_j|^2 / 2 s_c^2)  +  w_s exp(-|p_i - p_j|^2 / 2 s_s^2)``

    Each kernel K is normalised to D^-1/2 K D^-1/2, where D holds the sums of K's rows, so that weights do not depend on
    image size or deviations. The smoothness kernel is a separable blur. The appearance kernel is approximated by cells
    of pixels, see ``CellFilter``; with ``cell=1``, ``heard=None`` and a reach over the whole image it is exact.

    Options:
        iterations: of the mean field, each an update of all pixels at once.
        appearance_weight, smoothness_weight: w_a and w_s.
        appearance_position, smoothness_position: s_a and s_s in pixels.
        appearance_color: s_c in grey levels out of 255.
        cell: side of a cell in pixels.
        reach: window of cells in each direction.
        heard: halves of cells that each pixel uses, or None for all within reach; takes 4 ``heard`` bytes per pixel.
    """

    iterations: Count = 5
    appearance_weight: NotNegative = 4.0
    appearance_position: Positive = 67.0
    appearance_color: Positive = 3.0
    smoothness_weight: NotNegative = 3.0
    smoothness_position: Positive = 3.0
    cell: Count = 8
    reach: Whole = 12
    heard: Count | None = 256

    @hookimpl
    def predictor(self, model: nn.Module, predict: Predict) -> Predict:
        return lambda images: self.refine(predict(images), images)

    def refine(self, logits: Tensor, images: Tensor) -> Tensor:
        """Return the log of the marginals, (B, K, H, W), after mean-field inference.

        Args:
            logits: (B, K, H, W), whose log-softmax is the unary term.
            images: (B, 3, H, W) in [0, 1].
        """
        # In half precision the differences of squares in the kernel would be rounding noise.
        dtype = torch.promote_types(logits.dtype, torch.float32)
        with torch.autocast(logits.device.type, enabled=False):
            return self._mean_field(logits.to(dtype), images.to(dtype))

    def _mean_field(self, logits: Tensor, images: Tensor) -> Tensor:
        unary = logits.log_softmax(1)
        ones = torch.ones_like(unary[:, :1])
        colors = images * (255 / self.appearance_color)
        appearance = CellFilter(colors, self.appearance_position, self.cell, self.reach, self.heard)
        # The kernel of a pixel with itself is 1, so a row's sum below 1 is an error of the approximation.
        scale_a, scale_s = appearance(ones).clamp(min=1).rsqrt(), self._blur(ones).rsqrt()
        log_beliefs = unary
        for _ in range(self.iterations):
            beliefs = log_beliefs.exp()
            messages = self.appearance_weight * scale_a * appearance(scale_a * beliefs)
            messages = messages + self.smoothness_weight * scale_s * self._blur(scale_s * beliefs)
            log_beliefs = (unary + messages).log_softmax(1)
        return log_beliefs

    def _blur(self, x: Tensor) -> Tensor:
        """Filter (B, C, H, W) with an unnormalised Gaussian of position, zeros outside."""
        radius = int(TRUNCATION * self.smoothness_position + 0.5)
        distance = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype) / self.smoothness_position
        kernel = (-distance.square() / 2).exp()
        rows = kernel.view(1, 1, -1, 1).repeat(x.shape[1], 1, 1, 1)
        x = F.conv2d(x, rows, padding=(radius, 0), groups=x.shape[1])
        return F.conv2d(x, rows.mT, padding=(0, radius), groups=x.shape[1])
