"""Which images a run shows, and what their panels hold."""

import json

import pytest
import torch
from PIL import Image

from dalib.runs.pictures import Samples
from tests.tiny import TinyData

PALETTE = [(i, 0, 0) for i in range(5)]


class Predicts:
    """Predicts the truth of the first ``right`` images asked for, and class 0 for the others."""

    def __init__(self, data, right):
        self.data, self.right, self.asked = data, right, 0

    def predict(self, images, *, teacher=False):
        (index,) = (i for i, image in enumerate(self.data.images) if torch.equal(image, images[0]))
        share = self.right[index]
        label = self.data.labels[index].clone()
        label[int(share * len(label)) :] = 0
        return label[None]


class Unlabelled(TinyData):
    def __getitem__(self, index):
        return self.images[index]


def contents_of(folder):
    contents = {}
    for path in sorted(folder.iterdir()):
        with Image.open(path) as panel:
            contents[path.name] = json.loads(panel.info["dalib"])
    return contents


def test_the_worst_the_median_and_the_best_image_are_shown_by_name(tmp_path):
    data = TinyData(length=5)
    samples = Samples(data, PALETTE)
    samples.predict("prediction before", Predicts(data, [1.0] * 5))
    samples.predict("prediction", Predicts(data, [0.5, 0.1, 1.0, 0.3, 0.8]))
    samples.write(tmp_path)
    contents = contents_of(tmp_path)
    assert list(contents) == ["1_worst.png", "2_median.png", "3_best.png"]
    titles = [entry["title"] for entry in contents.values()]
    assert titles[0].startswith("worst of 5: item 1, mIoU ")
    assert titles[1].startswith("median of 5: item 0, mIoU ")
    assert titles[2] == "best of 5: item 2, mIoU 100.0 %"
    assert contents["1_worst.png"]["captions"] == ["image", "truth", "prediction before", "prediction"]


@pytest.mark.parametrize(("length", "names"), [(1, ["1_worst.png"]), (2, ["1_worst.png", "2_median.png"])])
def test_few_images_are_shown_once_each(tmp_path, length, names):
    data = TinyData(length=length)
    samples = Samples(data, PALETTE)
    samples.predict("prediction", Predicts(data, [0.5, 1.0]))
    samples.write(tmp_path)
    assert list(contents_of(tmp_path)) == names


def test_images_without_labels_are_shown_without_a_score(tmp_path):
    data = Unlabelled(length=5)
    samples = Samples(data, PALETTE)
    samples.predict("prediction", Predicts(data, [1.0] * 5))
    samples.write(tmp_path)
    assert [entry["title"] for entry in contents_of(tmp_path).values()] == ["item 0", "item 1", "item 2"]
