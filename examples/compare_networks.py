"""Compare networks side by side: mIoU, latency, multiply-adds and parameters.

    python examples/compare_networks.py
    python examples/compare_networks.py bisenet pidnet_s "timm backbone=mobilenetv3_large_100" --steps 2000

Every network is trained on the same images for the same number of steps and then scored on images never seen. Without
arguments that is a few steps on diorama, enough to see the table and not what the networks are worth.
"""

import argparse

from rich.console import Console
from rich.table import Table

from dalib import Engine, create_dataset, create_model, create_strategy
from dalib.bench import Row, cpu_threads, measure
from dalib.optim import SCHEDULES, adamw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "networks", nargs="*", default=["bisenet", "bisenet_v1", "pidnet_s"], metavar="NAME [key=value]"
    )
    parser.add_argument("--data", default="diorama domain=target", help="a data set and its options")
    parser.add_argument(
        "--size", type=int, nargs=2, default=[96, 192], metavar=("H", "W"), help="of training and scores"
    )
    parser.add_argument("--latency-size", type=int, nargs=2, default=[512, 1024], metavar=("H", "W"))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--images", type=int, default=10, help="to score on")
    parser.add_argument("--variant", default="fused+channels-last", help="that latency is of, see `dalib bench`")
    parser.add_argument("--seconds", type=float, default=1.0, help="to measure latency for")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    table = Table("network", "mIoU %", "median ms", "p95 ms", "G multiply-adds", "M parameters")
    with cpu_threads(options.threads):
        rows = [(name, *train_and_measure(name, options)) for name in options.networks]
    for name, miou, row in rows:
        cells = (100 * miou, row.median_ms, row.p95_ms, row.macs / 1e9, row.inference_parameters / 1e6)
        table.add_row(name, *(f"{cell:.1f}" for cell in cells))
    row = rows[0][2]
    print(f"latency: {row.size[0]}x{row.size[1]} (HxW), {row.variant}, {row.hardware}, {row.threads} CPU thread(s)")
    print(f"mIoU: {options.data}, {options.steps} steps of batch {options.batch_size}, random weights at the start")
    Console().print(table)


def train_and_measure(network: str, options: argparse.Namespace) -> tuple[float, Row]:
    """Train a network and return its mIoU (0..1) and what it costs."""
    name, network_options = parse(network)
    data, data_options = parse(options.data)
    train, val = (
        create_dataset(data, **{"size": tuple(options.size), "split": split, **data_options})
        for split in ("train", "val")
    )
    model = create_model(name, **network_options)
    engine = Engine(
        model,
        [create_strategy("supervised")],
        optimizer=adamw(lr=1e-3),
        schedule=SCHEDULES["poly"](steps=options.steps),
    )
    engine.fit(train, steps=options.steps, batch_size=options.batch_size)
    result = engine.evaluate(val, limit=options.images)
    row = measure(model, tuple(options.latency_size), options.variant, name=name, seconds=options.seconds)
    return result.miou, row


def parse(text: str) -> tuple[str, dict[str, str]]:
    """Split "name key=value ..." into the name and its options."""
    name, *pairs = text.split()
    return name, dict(pair.split("=", 1) for pair in pairs)


if __name__ == "__main__":
    main()
