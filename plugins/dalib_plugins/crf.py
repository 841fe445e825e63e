"""A fully connected CRF after any network, at evaluation and prediction."""

from dataclasses import fields

from torch import Tensor, nn

from dalib import DenseCRF, Predict, Strategy, hookimpl
from dalib_plugins.ranges import Count, NotNegative, Positive, Whole


class Crf(Strategy):
    """Refine every prediction with mean-field inference; the options are those of ``dalib.crf.DenseCRF``.

    Training does not see it.
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
        crf = DenseCRF(**{field.name: getattr(self, field.name) for field in fields(DenseCRF)})

        def refined(images: Tensor) -> Tensor:
            return crf(predict(images).float(), images)

        return refined
