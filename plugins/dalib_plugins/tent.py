"""TENT: entropy minimisation at test time, by BatchNorm's scales and shifts (Wang et al. 2021)."""

import logging

import torch
from torch import nn

from dalib import Predict, SetupContext, StackError, Strategy, hookimpl
from dalib.options import Momentum, NotNegative, Positive
from dalib_plugins.batch_norms import batch_norms, follow
from dalib_plugins.one_class import refuse_one_class

logger = logging.getLogger("dalib")

WARNING = (
    "strategy %r minimises entropy on the images that it predicts, which can make predictions worse the longer it "
    "runs: publicly reported are 61.1 to 57.9 and 32 to 16 %% mIoU. Score it beside `bn_adapt`, which trains nothing."
)


class Tent(Strategy):
    """Train BatchNorm's scales and shifts by the entropy of each batch of images, at evaluation and prediction only.

    Layers normalise by the batch's own statistics. Each batch is predicted, and then changes the network by one step
    of SGD on the mean entropy (in nats) of its pixels, for the batches after it. The defaults are those of the public
    benchmark of test-time adaptation by Doebler, Marsden et al. for segmentation, which there begins anew with each
    image; here, as in the paper, it goes on.

    Options:
        lr, momentum, weight_decay: of SGD.
    """

    lr: Positive = 2.5e-4
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 5e-4

    adapts = True

    @hookimpl
    def setup(self, ctx: SetupContext) -> None:
        refuse_one_class(ctx)
        batch_norms(ctx.model, self.name)
        logger.warning(WARNING, self.name)

    @hookimpl
    def predictor(self, model: nn.Module, predict: Predict) -> Predict:
        model.requires_grad_(False)
        norms = follow(model, self.name, lambda mean, variance: lambda x: (None, None))
        learned = [parameter.requires_grad_() for norm in norms for parameter in norm.parameters()]
        optimizer = torch.optim.SGD(learned, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)

        def adapt(images: torch.Tensor) -> torch.Tensor:
            with torch.enable_grad():
                logits = predict(images)
                if not logits.requires_grad:
                    raise StackError(
                        f"strategy {self.name!r} needs gradients through what predicts before it, and there are none; "
                        "place it first among the strategies around predictions."
                    )
                log_p = logits.log_softmax(1)
                entropy = -(log_p.exp() * log_p).sum(1)
                # Of the sum, since in fp16 gradients of a mean over an image are too small.
                gradients = torch.autograd.grad(entropy.sum(), learned, allow_unused=True)
            for parameter, gradient in zip(learned, gradients, strict=True):
                parameter.grad = None if gradient is None else gradient / entropy.numel()
            optimizer.step()
            return logits.detach()

        return adapt
