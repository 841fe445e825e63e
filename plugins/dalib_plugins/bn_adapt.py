"""BatchNorm of the target: running statistics blended with those of the images (alpha-BN, You et al. 2021)."""

import torch
from torch import Tensor, nn

from dalib import Predict, SetupContext, Strategy, hookimpl
from dalib.options import Probability
from dalib_plugins.batch_norms import Statistics, batch_norms, follow


class BnAdapt(Strategy):
    """Predict with BatchNorm statistics (1 - a) source + a target, at evaluation and prediction only, without training.

    The source's are the running statistics of the trained network, the target's the mean and the unbiased variance of
    each batch of images; ``evaluate: {batch_size: N}`` says how many are in one. At ``alpha: 1`` they are the batch's
    alone. A network without BatchNorm is refused.

    Options:
        alpha: a, the share of the target's statistics (0.1 in the public benchmark of test-time adaptation by Doebler,
            Marsden et al.).
        carry: begin each batch from the statistics that the one before it left, as BatchNorm does in training, and not
            from the source's. The benchmark's Norm-EMA does so in two forwards per batch, of which the first, in
            training mode, moves the statistics; here it is one.
    """

    alpha: Probability = 0.1
    carry: bool = False

    adapts = True

    @hookimpl
    def setup(self, ctx: SetupContext) -> None:
        batch_norms(ctx.model, self.name)  # refused before a training, not after it

    @hookimpl
    def predictor(self, model: nn.Module, predict: Predict) -> Predict:
        follow(model, self.name, self._blend)
        return predict

    def _blend(self, mean: Tensor, variance: Tensor) -> Statistics:
        before = mean, variance

        def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal before
            dimensions = [i for i in range(x.dim()) if i != 1]
            target_variance, target_mean = torch.var_mean(x.to(mean.dtype), dimensions)
            blend = before[0].lerp(target_mean, self.alpha), before[1].lerp(target_variance, self.alpha)
            before = blend if self.carry else before
            return blend

        return statistics
