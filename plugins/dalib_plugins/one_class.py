"""The refusal of networks with one class."""

from dalib import SetupContext, StackError


def refuse_one_class(ctx: SetupContext) -> None:
    """Raise StackError where the softmax is 1 everywhere: the loss is then exactly 0, and log K too."""
    if ctx.num_classes < 2:
        raise StackError(
            f"strategy {ctx.strategy!r} needs 2 classes or more, and the model has {ctx.num_classes}: every prediction "
            "would be right. Give the data a class for the background; masks of 0 and 255 take a label map that says "
            "`classes: [background, crack]` and `ids: {0: background, 255: crack}`, by whatever names."
        )
