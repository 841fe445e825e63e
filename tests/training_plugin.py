"""What trains a run, as a plugin that a recipe names: ``plugins: [tests.training_plugin]``."""

from functools import partial

import torch

from dalib import Registry, hookimpl


def brier(*, scale: float = 1.0):
    """Return the mean squared error of the probabilities, times ``scale``."""

    def loss(outputs, label, weight=None, *, across):
        valid = label != 255
        truth = torch.nn.functional.one_hot(label.masked_fill(~valid, 0), outputs["logits"].shape[1]).movedim(-1, 1)
        error = (outputs["logits"].softmax(1) - truth).square().sum(1)
        return scale * across.mean(error, valid, weight)

    return loss


def adagrad(*, lr: float, eps: float = 1e-10):
    """Return a factory of Adagrad."""
    return partial(torch.optim.Adagrad, lr=lr, eps=eps)


def linear(*, steps: int, end: float = 0.0):
    """Return a line from 1 to ``end``."""
    return lambda step: 1 - (1 - end) * step / steps


@hookimpl
def dalib_register(registry: Registry) -> None:
    """Register one of each kind."""
    registry.loss("brier", brier)
    registry.optimizer("adagrad", adagrad)
    registry.schedule("linear", linear)
