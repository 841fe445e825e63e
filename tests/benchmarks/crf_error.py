"""How near the CRF's approximation is to inference over all pairs of pixels, and how long it takes at full size.

    python tests/benchmarks/crf_error.py

Procedural scenes, with logits like those of a trained network of stride 8: right scores at an eighth of the size, with
noise, upsampled. One thread, processor time.
"""

import time

import torch
import torch.nn.functional as F
from torch import Tensor

from dalib import create_dataset
from dalib_plugins.crf import Crf
from tests.plugins.test_crf import dense_mean_field

SMALL, FULL = (72, 96), (512, 1024)
SCENES = 3
FORMS = {"default cells": Crf(), "cell 4, reach 32": Crf(cell=4, reach=32)}


def scene(size: tuple[int, int], index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return an image (1, 3, H, W) in [0, 1], logits (1, 19, H, W) and classes (H, W)."""
    image, label = create_dataset("diorama", domain="target", split="val", size=size)[index]
    label = label.long()
    label[label == 255] = 0
    eighth = (size[0] // 8, size[1] // 8)
    noise = torch.randn(1, 19, *eighth, generator=torch.Generator().manual_seed(index))
    right = F.interpolate(F.one_hot(label, 19).permute(2, 0, 1)[None].float(), size=eighth, mode="area")
    return image[None].float() / 255, F.interpolate(6 * right + 1.2 * noise, size=size, mode="bilinear"), label


def accuracy(beliefs: Tensor, label: Tensor) -> float:
    """Return the percentage of pixels that are right, of beliefs (K, H, W)."""
    return 100 * float((beliefs.argmax(0) == label).float().mean())


def main() -> None:
    torch.set_num_threads(1)
    for index in range(SCENES):
        image, logits, label = scene(SMALL, index)
        exact = dense_mean_field(Crf(), logits[0].double(), image[0].double()).float()
        without, over_all = accuracy(logits[0], label), accuracy(exact, label)
        print(f"{SMALL[0]}x{SMALL[1]}, scene {index}: {without:.2f} % right without, {over_all:.2f} % over all pairs")
        for name, crf in FORMS.items():
            beliefs = crf.refine(logits, image)[0].exp()
            same, apart = accuracy(beliefs, exact.argmax(0)), (beliefs - exact).abs()
            print(f"  {name}: {accuracy(beliefs, label):.2f} % right, {same:.1f} % the same class as over all pairs;")
            print(f"  beliefs {apart.mean():.4f} apart on average, {apart.max():.2f} at most")
    for index in range(SCENES):
        image, logits, label = scene(FULL, index)
        started = time.process_time()
        right = accuracy(Crf().refine(logits, image)[0], label)
        seconds = time.process_time() - started
        print(
            f"{FULL[0]}x{FULL[1]}, scene {index}: {accuracy(logits[0], label):.2f} % right without, {right:.2f} % with"
        )
        print(f"  {seconds:.1f} s")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
