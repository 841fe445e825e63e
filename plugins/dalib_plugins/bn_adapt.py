"""BatchNorm of the target: running statistics blended with those of the images (alpha-BN, You et al. 2021)."""

import torch
from torch import Tensor, nn

from dalib import Predict, Strategy, hookimpl
from dalib.options import Probability
from dalib_plugins.batch_norms import Statistics, follow


class BnAdapt(Strategy):
    """Predict with BatchNorm statistics (1 - a) source + a target, at evaluation and prediction only, without training.

    The source's are the running statistics of the trained network, the target's the mean and the unbiased variance of
    each batch of images; ``evaluate: {batch_size: N}`` says how many are in one. At ``alpha: 1`` they are the batch's
    alone. A network without BatchNorm is refused.

    Options:
        alpha: a, the share of the target's statistics (0.1 in the public benchmark of test-time adaptation by Doebler,
            Marsden et al.).
    """

    alpha: Probability = 0.1

    adapts = True

    @hookimpl
    def predictor(self, model: nn.Module, predict: Predict) -> Predict:
        follow(model, self.name, self._blend)
        return predict

    def _blend(self, mean: Tensor, variance: Tensor) -> Statistics:
        def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
            dimensions = [i for i in range(x.dim()) if i != 1]
            target_variance, target_mean = torch.var_mean(x.to(mean.dtype), dimensions)
            return mean.lerp(target_mean, self.alpha), variance.lerp(target_variance, self.alpha)

        return statistics
