"""Compare networks side by side: mIoU, latency, multiply-adds and parameters.

    python examples/compare_networks.py
    python examples/compare_networks.py bisenet pidnet_s "timm backbone=mobilenetv3_large_100" --steps 2000

Every network is trained on the same images for the same number of steps and then scored on unseen images. Without
arguments that is a short training on diorama, about a quarter of an hour on 2 cores, of which DeepLabV2 takes most.
Finished networks and checkpoints are kept in ``--out``, so that the same command continues an interrupted comparison.
"""

import argparse
import json
import os
from pathlib import Path

# Before torch is imported: threads that spin while they wait slow a step down eightfold on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from dalib import DalibError, Engine, create_strategy
from dalib.cli import configure_logging, count, seconds
from dalib.core.create import dataset_from, model_from
from dalib.core.optim import adamw, poly
from dalib.core.uses import parse_use
from dalib.data import SegmentationDataset
from dalib.data.dataset import checked_item
from dalib.data.loader import check_not_empty
from dalib.deploy.bench import Row, check_variant, cpu_threads, measure
from dalib.files import write_text
from dalib.models import SegmentationModel
from dalib.runs.build import check_classes

NETWORKS = ["bisenet", "bisenet_v1", "pidnet_s", "timm", "deeplabv2"]
SAVE_EVERY = 50  # steps


def main() -> None:
    options = arguments()
    configure_logging()
    # Everything is created and read before anything is written or trained, so that mistakes show at once.
    check_variant(options.variant)
    train, val = datasets(options)
    classes = check_classes({"train": train, "val": val})
    kept = {name: read_json(path) for name in options.networks if (path := result_path(name, options)).exists()}
    models = {name: make_model(name, len(classes), options) for name in options.networks if name not in kept}
    keep_settings(options)
    with cpu_threads(options.threads):
        found = {
            name: kept[name] if name in kept else result(name, models.pop(name), train, val, options)
            for name in dict.fromkeys(options.networks)
        }
    row = Row(**next(iter(found.values()))["cost"])
    size = f"{row.size[0]}x{row.size[1]}"
    print(f"latency: {size} (HxW), {row.variant}, {row.hardware}, {row.threads} CPU thread(s); CPU: processor time")
    print(f"mIoU: {options.data}, {options.steps} steps of batch {options.batch_size}, from random weights if not said")
    Console().print(as_table(found))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NAME [key=value]")
    parser.add_argument("--data", default="diorama domain=target", help="a data set and its options")
    parser.add_argument(
        "--size", type=count, nargs=2, default=[64, 128], metavar=("H", "W"), help="of training and scores"
    )
    parser.add_argument("--latency-size", type=count, nargs=2, default=[512, 1024], metavar=("H", "W"))
    parser.add_argument("--steps", type=count, default=200)
    parser.add_argument("--batch-size", type=count, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=count, default=100, help="to score on")
    parser.add_argument("--variant", default="fused+channels-last", help="that latency is of, see `dalib bench`")
    parser.add_argument("--seconds", type=seconds, default=1.0, help="to measure latency for")
    parser.add_argument("--threads", type=count, default=None)
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="where finished networks are kept")
    return parser.parse_args()


def datasets(options: argparse.Namespace) -> list[SegmentationDataset]:
    """Return the training and validation sets, each with its first item read and checked."""
    use = parse_use(options.data)
    made = []
    for split in ("train", "val"):
        dataset = dataset_from({"size": options.size, "split": split, **use}, use["use"])
        check_not_empty(dataset, split)
        checked_item(dataset, 0)
        made.append(dataset)
    return made


def make_model(network: str, num_classes: int, options: argparse.Namespace) -> SegmentationModel:
    use = parse_use(network)
    torch.manual_seed(options.seed)
    model: SegmentationModel = model_from(use, num_classes, use["use"])
    return model


def keep_settings(options: argparse.Namespace) -> None:
    """Store the settings of the comparison; DalibError where the folder holds one with other settings."""
    settings = {key: value for key, value in vars(options).items() if key not in ("networks", "out")}
    path = options.out / "settings.json"
    begun = {*options.out.glob("*.json"), *options.out.glob("*.pt")} - {path}
    if begun and path.exists() and read_json(path) != settings:
        raise DalibError(f"{options.out} holds a comparison with other settings ({path}); give another --out.")
    write_text(path, json.dumps(settings))


def read_json(path: Path) -> dict:
    """Return a JSON file that this script wrote; DalibError where it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DalibError(f"{path} cannot be read: {error}. Remove it, or give another --out.") from error
    if not isinstance(value, dict):
        raise DalibError(f"{path}: expected a mapping, found {value!r:.60}. Remove it, or give another --out.")
    return value


def result(
    name: str,
    model: SegmentationModel,
    train: SegmentationDataset,
    val: SegmentationDataset,
    options: argparse.Namespace,
) -> dict:
    """Measure and train a network, keep its mIoU (0..1) and cost, and return them."""
    # Latency first, so that a variant that this machine cannot run, or a wrong size, fails before the training.
    row = measure(model, tuple(options.latency_size), options.variant, name=name, seconds=options.seconds)
    path = result_path(name, options)
    miou = train_and_score(model, train, val, path.with_suffix(".pt"), options)
    found = {"miou": miou, "cost": row.to_dict()}
    write_text(path, json.dumps(found))
    path.with_suffix(".pt").unlink(missing_ok=True)
    return found


def result_path(network: str, options: argparse.Namespace) -> Path:
    path: Path = options.out / f"{network.replace('/', '_')}.json"
    return path


def train_and_score(
    model: SegmentationModel,
    train: SegmentationDataset,
    val: SegmentationDataset,
    checkpoint: Path,
    options: argparse.Namespace,
) -> float:
    """Train a network, from its checkpoint where there is one, and return its mIoU (0..1)."""
    engine = Engine(
        model,
        [create_strategy("supervised")],
        optimizer=adamw(lr=1e-3),
        schedule=poly(steps=options.steps),
        seed=options.seed,
    )
    if checkpoint.exists():
        engine.load(checkpoint)
    while engine.index < options.steps:
        engine.fit(train, steps=min(engine.index + SAVE_EVERY, options.steps), batch_size=options.batch_size)
        engine.save(checkpoint)
    return engine.evaluate(val, limit=options.images).miou


def as_table(found: dict[str, dict]) -> Table:
    table = Table(
        Column("network", overflow="fold"), "mIoU %", "median ms", "p95 ms", "CPU ms", "G mult.-adds", "M param."
    )
    for name, result in found.items():
        row = Row(**result["cost"])
        costs = (row.median_ms, row.p95_ms, row.processor_ms, row.macs / 1e9, row.inference_parameters / 1e6)
        table.add_row(escape(name), *(f"{cell:.1f}" for cell in (100 * result["miou"], *costs)))
    return table


if __name__ == "__main__":
    try:
        main()
    except DalibError as error:
        raise SystemExit(f"compare_networks: {error}") from None
