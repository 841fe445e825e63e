"""Shared code of the example scripts: arguments, two domains, an engine, and a comparison of stacks."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

# Before torch is imported: threads that spin while they wait slow a step down eightfold on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from dalib import Engine, Strategy, create_dataset, create_model
from dalib.cli import count
from dalib.core.optim import adamw, poly
from dalib.data import SegmentationDataset

Domains = tuple[SegmentationDataset, SegmentationDataset, SegmentationDataset]


def arguments(description: str | None, steps: int) -> argparse.Namespace:
    """Return the command line's arguments; the defaults, ``steps`` among them, take a minute or two on a laptop."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, metavar="DIR", help="DIR/images and DIR/labels; default: diorama")
    parser.add_argument("--target", type=Path, metavar="DIR", help="DIR/images/{train,val} and DIR/labels/val")
    parser.add_argument("--size", type=count, nargs=2, default=(64, 128), metavar=("H", "W"), help="of both domains")
    parser.add_argument("--steps", type=count, default=steps, help="of every training")
    parser.add_argument("--batch-size", type=count, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=count, default=100, help="how many images to score on")
    options = parser.parse_args()
    if (options.source is None) != (options.target is None):
        parser.error("--source and --target go together; without both the two domains of diorama are used")
    return options


def domains(options: argparse.Namespace) -> Domains:
    """Return the source, the target for adaptation, and the target's validation set.

    Labels in ``--source`` and ``--target`` are PNG of Cityscapes' train ids; for others, use a recipe with a label map.
    """
    size = tuple(options.size)
    if options.source is None:
        source = create_dataset("diorama", domain="source", size=size)
        target, held_out = (create_dataset("diorama", domain="target", split=s, size=size) for s in ("train", "val"))
        return source, target, held_out
    source = create_dataset("folder", root=str(options.source), size=size)
    target, held_out = (
        create_dataset("folder", root=str(options.target), split=s, size=size) for s in ("train", "val")
    )
    return source, target, held_out.for_evaluation()  # labels at their own size


def make_engine(strategies: Sequence[Strategy], options: argparse.Namespace) -> Engine:
    """Return an engine around a new BiSeNet; one seed gives every stack the same weights, images and draws."""
    torch.manual_seed(options.seed)
    return Engine(
        create_model("bisenet", num_classes=19, backbone="resnet18"),
        strategies,
        optimizer=adamw(lr=2e-3),
        schedule=poly(steps=options.steps),
        seed=options.seed,
    )


def compare(stacks: dict[str, list[Strategy]], options: argparse.Namespace) -> None:
    """Train every stack for the same steps and print what each reaches on the target."""
    source, target, held_out = domains(options)
    for name, strategies in stacks.items():
        engine = make_engine(strategies, options)
        engine.fit(source, target, steps=options.steps, batch_size=options.batch_size)
        result = engine.evaluate(held_out, limit=options.images)
        print(f"{name:20} mIoU {100 * result.miou:5.1f} %", flush=True)
