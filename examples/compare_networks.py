"""Compare networks side by side: mIoU, latency, multiply-adds and parameters.

    python examples/compare_networks.py
    python examples/compare_networks.py bisenet pidnet_s "timm backbone=mobilenetv3_large_100" --steps 2000

Every network is trained on the same images for the same number of steps and then scored on images never seen. Without
arguments that is a short training on diorama, about a quarter of an hour on 2 cores, of which DeepLabV2 takes most. A
run that was cut off goes on where it was when the same command is given again: what is done is kept in ``--out``.
"""

import argparse
import json
import os
from pathlib import Path

# Before torch is loaded: threads that spin while they wait make a step eight times as slow on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from rich.console import Console
from rich.table import Column, Table

from dalib import DalibError, Engine, create_dataset, create_model, create_strategy
from dalib.bench import Row, check_variant, cpu_threads, measure
from dalib.create import check_use
from dalib.files import write_text
from dalib.optim import adamw, poly
from dalib.yaml_text import parse_yaml

NETWORKS = ["bisenet", "bisenet_v1", "pidnet_s", "timm", "deeplabv2"]
SAVE_EVERY = 50  # steps


def main() -> None:
    options = arguments()
    check(options)
    keep_settings(options)
    with cpu_threads(options.threads):
        found = {name: result(name, options) for name in options.networks}
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
        "--size", type=int, nargs=2, default=[64, 128], metavar=("H", "W"), help="of training and scores"
    )
    parser.add_argument("--latency-size", type=int, nargs=2, default=[512, 1024], metavar=("H", "W"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=100, help="to score on")
    parser.add_argument("--variant", default="fused+channels-last", help="that latency is of, see `dalib bench`")
    parser.add_argument("--seconds", type=float, default=1.0, help="to measure latency for")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="where finished networks are kept")
    return parser.parse_args()


def check(options: argparse.Namespace) -> None:
    """Refuse what would fail after hours."""
    check_variant(options.variant)
    for network in options.networks:
        name, network_options = parse(network)
        check_use("model", {"use": name, **network_options}, "model")


def keep_settings(options: argparse.Namespace) -> None:
    """Write down what every network is compared under; exit where the folder holds another comparison."""
    settings = {key: value for key, value in vars(options).items() if key not in ("networks", "out")}
    path = options.out / "settings.json"
    if path.exists() and json.loads(path.read_text()) != settings:
        raise SystemExit(f"{options.out} holds a comparison with other settings ({path}); give another --out.")
    write_text(path, json.dumps(settings))


def result(network: str, options: argparse.Namespace) -> dict:
    """Return mIoU (0..1) and cost of a network, measured now or on an earlier call."""
    path = result_path(network, options)
    if not path.exists():
        miou, row = train_and_measure(network, options)
        write_text(path, json.dumps({"miou": miou, "cost": row.to_dict()}))
        path.with_suffix(".pt").unlink(missing_ok=True)
    found: dict = json.loads(path.read_text())
    return found


def result_path(network: str, options: argparse.Namespace) -> Path:
    path: Path = options.out / f"{network.replace('/', '_')}.json"
    return path


def train_and_measure(network: str, options: argparse.Namespace) -> tuple[float, Row]:
    """Train a network and return its mIoU (0..1) and what it costs."""
    name, network_options = parse(network)
    data, data_options = parse(options.data)
    train, val = (
        create_dataset(data, **{"size": tuple(options.size), "split": split, **data_options})
        for split in ("train", "val")
    )
    torch.manual_seed(options.seed)
    model = create_model(name, **network_options)
    engine = Engine(
        model,
        [create_strategy("supervised")],
        optimizer=adamw(lr=1e-3),
        schedule=poly(steps=options.steps),
        seed=options.seed,
    )
    checkpoint = result_path(network, options).with_suffix(".pt")
    if checkpoint.exists():
        engine.load(checkpoint)
    while engine.index < options.steps:
        engine.fit(train, steps=min(engine.index + SAVE_EVERY, options.steps), batch_size=options.batch_size)
        engine.save(checkpoint)
    miou = engine.evaluate(val, limit=options.images).miou
    row = measure(model, tuple(options.latency_size), options.variant, name=name, seconds=options.seconds)
    return miou, row


def parse(text: str) -> tuple[str, dict[str, object]]:
    """Split "name key=value ..." into the name and its options, whose values are YAML."""
    name, *pairs = text.split()
    if wrong := [pair for pair in pairs if "=" not in pair]:
        raise DalibError(f"{text!r}: expected a name and options as key=value, got {wrong[0]!r}.")
    return name, {key: parse_yaml(value) for key, value in (pair.split("=", 1) for pair in pairs)}


def as_table(found: dict[str, dict]) -> Table:
    table = Table(
        Column("network", overflow="fold"), "mIoU %", "median ms", "p95 ms", "CPU ms", "G mult.-adds", "M param."
    )
    for name, result in found.items():
        row = Row(**result["cost"])
        costs = (row.median_ms, row.p95_ms, row.processor_ms, row.macs / 1e9, row.inference_parameters / 1e6)
        table.add_row(name, *(f"{cell:.1f}" for cell in (100 * result["miou"], *costs)))
    return table


if __name__ == "__main__":
    try:
        main()
    except DalibError as error:
        raise SystemExit(f"compare_networks: {error}") from None
