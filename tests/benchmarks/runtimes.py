"""Time and score trained runs as they are and, exported, in ONNX Runtime and OpenVINO, in float32 and in int8.

    python tests/benchmarks/runtimes.py RUN... [--timed deeplabv2] [--rounds 9]

Every run is exported at the size of its data and quantised, calibrated on its target's training pictures; each form is
scored on the target's test scenes, and timed at 512x1024 on one thread, a forward of each in every round, so that what
else the machine does falls on all of them. Times are medians: processor time, which on one thread is what the wall
clock of an idle machine shows, and the wall clock's beside it. Networks that are only timed have random weights.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from dalib import create_dataset, create_model, evaluate
from dalib.deploy.bench import RUNTIMES, in_runtime
from dalib.deploy.export import export, streets
from dalib.deploy.quantize import quantize
from dalib.deploy.runtimes import open_onnx
from dalib.device import hardware_name
from dalib.runs.loading import load_run

Form = Callable[[Tensor], Tensor]

SIZE = (512, 1024)
PACKAGES = ("onnxruntime", "openvino")
CALIBRATED_ON = 32


def exported(model: nn.Module, folder: Path, size: tuple[int, int], pictures: list[Tensor]) -> dict[str, Form]:
    """Return the model's forms: eager, and its files in both runtimes."""
    files = {"": folder / "float32.onnx", "-int8": folder / "int8.onnx"}
    print(export(model, files[""], size), flush=True)
    print(quantize(files[""], files["-int8"], pictures), flush=True)
    runtimes = {f"{name}{kind}": open_onnx(file, name) for name in PACKAGES for kind, file in files.items()}
    return {"eager": model.eval(), **runtimes}


def in_turn(forms: dict[str, Form], rounds: int) -> dict[str, tuple[float, float]]:
    """Return the median processor and wall milliseconds of each form, a forward of each in every round."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
    image = streets(SIZE, 1)[0][None]
    with torch.inference_mode():
        for form in forms.values():
            form(image)
        for _ in range(rounds):
            for name, form in forms.items():
                processor, wall = time.process_time(), time.perf_counter()
                form(image)
                times[name].append((time.process_time() - processor, time.perf_counter() - wall))
    return {
        name: (1000 * statistics.median(p for p, _ in of), 1000 * statistics.median(w for _, w in of))
        for name, of in times.items()
    }


def report(name: str, forms: dict[str, Form], rounds: int, scores: dict[str, float]) -> None:
    medians = in_turn(forms, rounds)
    for form, (processor, wall) in medians.items():
        ratio = medians["eager"][0] / processor
        score = f"{100 * scores[form]:.2f}" if form in scores else ""
        print(f"| {name} | {form} | {processor:.0f} | {wall:.0f} | {ratio:.2f} | {score} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="run folders, trained on diorama")
    parser.add_argument("--timed", nargs="*", default=[], help="registered models to time with random weights")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--scenes", type=int, default=200, help="test scenes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{SIZE[0]}x{SIZE[1]} (HxW), 1 thread, {hardware_name(torch.device('cpu'))}, torch {torch.__version__}")
    for run in options.runs:
        loaded = load_run(run, device="cpu")
        target = {**loaded.recipe.data.target, "split": "train"}
        use, size = target.pop("use"), tuple(target["size"])
        pictures = [create_dataset(use, **target)[i][0].float() / 255 for i in range(CALIBRATED_ON)]
        test = create_dataset(use, **{**target, "split": "test", "length": options.scenes})
        with TemporaryDirectory() as folder:
            forms = exported(loaded.engine.model, Path(folder), size, pictures)
            scores = {name: evaluate(loaded.engine.model, test, predict=form).miou for name, form in forms.items()}
            report(run.name, forms, options.rounds, scores)
    for name in options.timed:
        model = create_model(name).eval()
        report(name, {"eager": model, **{v: in_runtime(model, v, SIZE) for v in RUNTIMES}}, options.rounds, {})


if __name__ == "__main__":
    main()
