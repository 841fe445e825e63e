"""Segmentation losses of a labelled stream, as functions of tensors, and what they are made of."""

from typing import TYPE_CHECKING

from dalib.hooks import hookimpl
from dalib.losses.balance import WeightRule, balanced_weights, log_prior
from dalib.losses.contract import LOCAL, Local, Ranks, SegmentationLossFunction, whole_batch
from dalib.losses.cross_entropy import SegmentationLoss, cross_entropy, hard_pixels
from dalib.losses.dice import DiceLoss, dice
from dalib.losses.lovasz import LovaszLoss, lovasz_softmax

if TYPE_CHECKING:
    from dalib.registry import Registry

__all__ = [
    "LOCAL",
    "DiceLoss",
    "Local",
    "LovaszLoss",
    "Ranks",
    "SegmentationLoss",
    "SegmentationLossFunction",
    "WeightRule",
    "balanced_weights",
    "cross_entropy",
    "dalib_register",
    "dice",
    "hard_pixels",
    "log_prior",
    "lovasz_softmax",
    "whole_batch",
]


@hookimpl
def dalib_register(registry: "Registry") -> None:
    """Register the losses that a recipe's ``loss:`` can name."""
    registry.loss("cross_entropy", SegmentationLoss)
    registry.loss("dice", DiceLoss)
    registry.loss("lovasz", LovaszLoss)
