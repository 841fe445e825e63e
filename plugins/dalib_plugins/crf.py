"""A fully connected CRF after any network, at evaluation and prediction."""

from torch import Tensor, nn

from dalib import Predict, Strategy, hookimpl
from dalib.crf import DenseCRF


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
        crf = DenseCRF(
            iterations=self.iterations,
            appearance_weight=self.appearance_weight,
            appearance_position=self.appearance_position,
            appearance_color=self.appearance_color,
            smoothness_weight=self.smoothness_weight,
            smoothness_position=self.smoothness_position,
            cell=self.cell,
            reach=self.reach,
        )

        def refined(images: Tensor) -> Tensor:
            return crf(predict(images).float(), images)

        return refined
