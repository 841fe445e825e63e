"""A fully connected CRF after any network, at evaluation and prediction."""

from dataclasses import fields

from torch import Tensor, nn

from dalib import DenseCRF, Predict, Strategy, hookimpl


class Crf(Strategy):
    """Refine every prediction with mean-field inference; the options are those of ``dalib.crf.DenseCRF``.

    Training does not see it.
    """

    iterations: int = 5
    appearance_weight: float = 4.0
    appearance_position: float = 67.0
    appearance_color: float = 3.0
    smoothness_weight: float = 3.0
    smoothness_position: float = 3.0
    cell: int = 16
    reach: int = 8

    @hookimpl
    def predictor(self, model: nn.Module, predict: Predict) -> Predict:
        crf = DenseCRF(**{field.name: getattr(self, field.name) for field in fields(DenseCRF)})

        def refined(images: Tensor) -> Tensor:
            return crf(predict(images).float(), images)

        return refined
