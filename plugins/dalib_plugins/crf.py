"""A fully connected CRF after any network, at evaluation and prediction."""

from dataclasses import fields

from torch import Tensor, nn

from dalib import Predict, Strategy, hookimpl
from dalib_plugins.dense_crf import DenseCRF
from dalib_plugins.ranges import Count, NotNegative, Positive, Whole


class Crf(Strategy):
    """Refine every prediction with mean-field inference; the options are those of ``dalib_plugins.dense_crf.DenseCRF``.

    Training does not see it.
    """

    iterations: Count = DenseCRF.iterations
    appearance_weight: NotNegative = DenseCRF.appearance_weight
    appearance_position: Positive = DenseCRF.appearance_position
    appearance_color: Positive = DenseCRF.appearance_color
    smoothness_weight: NotNegative = DenseCRF.smoothness_weight
    smoothness_position: Positive = DenseCRF.smoothness_position
    cell: Count = DenseCRF.cell
    reach: Whole = DenseCRF.reach
    heard: Count | None = DenseCRF.heard

    @hookimpl
    def predictor(self, model: nn.Module, predict: Predict) -> Predict:
        crf = DenseCRF(**{field.name: getattr(self, field.name) for field in fields(DenseCRF)})

        def refined(images: Tensor) -> Tensor:
            return crf(predict(images), images)

        return refined
