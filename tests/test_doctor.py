"""What the doctor finds in a dataset."""

import numpy as np
import torch
from PIL import Image
from rich.console import Console

from dalib.data.folder import folder
from dalib.doctor import Findings, examine, examine_new


def text_of(findings: Findings) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa
    console.print(findings.render())
    return console.export_text()


class Memory:
    """Somebody's dataset: two methods, no files."""

    classes = ("ground", "thing")

    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        item = self.items[index]
        if isinstance(item, Exception):
            raise item
        return item
