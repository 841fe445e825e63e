"""Time BiSeNet's inference forms against the form its reference study describes, in turn, in one run, on one thread.

    python tests/benchmarks/fused_bisenet.py

The network is trained for some steps first, since the classes of random weights are decided by rounding. Times are
processor time, which on one thread is what the wall clock of an idle machine shows; ratios are of medians, of forms
that run in turn, so that what else the machine does falls on all of them.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalib import Engine, create_dataset, create_model, create_strategy
from dalib.core.optim import adamw
from dalib.deploy.bench import check_variant, compiled, in_form
from dalib.device import hardware_name
from dalib.models import BiSeNet, SegmentationModel

SIZE = (512, 1024)
FORMS = (
    "fused",
    "fused+channels-last",
    "fused+bf16+channels-last",
    "fused+channels-last+compiled",
    "fused+bf16+channels-last+compiled",
)
REQUIRED_SPEED = 1.2
REQUIRED_RATIO = 10.0  # of DeepLabV2's latency to that of BiSeNet as described, at least


class Described(nn.Module):
    """BiSeNet as described: float32, contiguous, every BatchNorm apart, the last 1x1 after the upsampling."""

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        net = self.model.network
        assert isinstance(net, BiSeNet)
        x = (images - self.model.mean.view(3, 1, 1)) / self.model.std.view(3, 1, 1)
        spatial, levels = net.spatial(x), net.backbone(x)
        context16 = net.refine16(levels[16])
        context32 = net.refine32(levels[32]) * F.adaptive_avg_pool2d(levels[32], 1)
        size = spatial.shape[-2:]
        paths = [F.interpolate(c, size, mode="bilinear") for c in (context16, context32)]
        fused = net.fusion(spatial, *paths)
        return net.classifier(F.interpolate(fused, images.shape[-2:], mode="bilinear"))


def trained(steps: int) -> SegmentationModel:
    """Return BiSeNet after some supervised steps on small scenes."""
    torch.manual_seed(0)
    model = create_model("bisenet")
    assert isinstance(model, SegmentationModel)
    optimizer = adamw(lr=1e-3)
    engine = Engine(model, [create_strategy("supervised")], optimizer=optimizer, device="cpu")
    engine.fit(create_dataset("diorama", domain="source", size=(96, 192)), steps=steps, batch_size=4)
    return model.eval()


def in_turn(forms: dict[str, nn.Module], image: Tensor, rounds: int) -> dict[str, float]:
    """Return the median processor milliseconds of each form, a forward of each in every round."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    with torch.inference_mode():
        for form in forms.values():
            form(image)
        for _ in range(rounds):
            for name, form in forms.items():
                started = time.process_time()
                form(image)
                times[name].append(1000 * (time.process_time() - started))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=150, help="of training before")
    parser.add_argument("--no-compiled", action="store_true", help="leave the compiled forms out, which take minutes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = trained(options.steps)
    picture, _ = create_dataset("diorama", domain="source", split="val", size=SIZE)[0]
    image = picture[None].float() / 255
    forms: dict[str, nn.Module] = {"described": Described(model)}
    for variant in FORMS:
        parts = check_variant(variant)
        if "compiled" not in parts:
            forms[variant] = in_form(model, parts)
        elif not options.no_compiled:
            forms[variant] = compiled(in_form(model, parts), image)
    with torch.inference_mode():
        classes = {name: form(image).argmax(1) for name, form in forms.items()}
    medians = in_turn(forms, image, options.rounds)
    print(f"{SIZE[0]}x{SIZE[1]} (HxW), 1 thread, {hardware_name(torch.device('cpu'))}, torch {torch.__version__}")
    ratios = {name: medians["described"] / ms for name, ms in medians.items()}
    kept = {name: (c == classes["described"]).float().mean().item() for name, c in classes.items()}
    for name, ms in medians.items():
        print(f"{name:36s} {ms:8.1f} ms  {ratios[name]:5.2f}x  {100 * kept[name]:7.3f} % of the classes kept")
    picked = {"bisenet": forms["described"], "deeplabv2": create_model("deeplabv2").eval()}
    latency = in_turn(picked, image, 3)
    ratio = latency["deeplabv2"] / latency["bisenet"]
    print(f"DeepLabV2 {latency['deeplabv2']:.0f} ms, BiSeNet as described {latency['bisenet']:.0f} ms: {ratio:.1f}x")
    if ratio < REQUIRED_RATIO:
        raise SystemExit(f"DeepLabV2 takes {ratio:.1f}x as long as BiSeNet; expected at least {REQUIRED_RATIO}x.")
    fastest = max(ratios[name] for name in ("fused", "fused+channels-last"))
    if fastest < REQUIRED_SPEED:
        raise SystemExit(f"fused BiSeNet is {fastest:.2f}x as fast as described; expected {REQUIRED_SPEED}x.")


if __name__ == "__main__":
    main()
