"""How many images of 128x256 diorama draws in a second of processor time, on one thread."""

import time

import torch

from dalib.data.diorama import diorama

COUNT = 300


def main() -> None:
    torch.set_num_threads(1)
    for domain in ("source", "target"):
        data = diorama(domain=domain, size=(128, 256))
        data[0]  # draws the sprites
        start = time.process_time()
        for i in range(COUNT):
            data[i]
        print(f"{domain}: {COUNT / (time.process_time() - start):.0f} images a processor second")


if __name__ == "__main__":
    main()
