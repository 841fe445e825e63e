"""The sampled pixels: the same for every network, in bounded memory."""

import torch

from dalib.evaluation import pixel_sample
from dalib.evaluation.pixel_sample import PixelSample


def logits(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_pixels_are_those_of_the_image_whatever_the_batch_and_the_network():
    images = logits(5, 3, 40, 50)
    places = torch.arange(2000.0).view(1, 1, 40, 50).expand(5, 1, 40, 50)
    one, batched = PixelSample(5), PixelSample(5)
    for index, image in enumerate(images):
        one.update(index, image[None])
    batched.update(3, images[3:])
    batched.update(0, images[:3])
    assert all(torch.equal(a, b) for a, b in zip(one.gather(), batched.gather(), strict=True))
    located = PixelSample(5)
    located.update(0, torch.cat([places * 1e-6, images[:, :1] * 0], 1))
    assert not torch.equal(located.gather()[0], located.gather()[1])  # other pixels of each image


def test_each_pixel_is_taken_once_and_a_small_image_gives_all():
    sample = PixelSample(2)
    image = logits(2, 3, 4, 5)
    sample.update(0, image)
    for index, taken in enumerate(sample.gather()):
        expected = image[index].flatten(1).softmax(0).T
        assert taken.shape == (20, 3)
        torch.testing.assert_close(taken[taken[:, 0].argsort()], expected[expected[:, 0].argsort()])


def test_memory_is_bounded_by_pixels_and_images(monkeypatch):
    monkeypatch.setattr(pixel_sample, "PIXELS", 64)
    monkeypatch.setattr(pixel_sample, "IMAGES", 4)
    sample = PixelSample(100)
    for index in range(100):
        sample.update(index, logits(1, 2, 8, 9, seed=index))
    taken = sample.gather()
    assert [len(image) for image in taken] == [16] * 4
    of_image_25 = logits(1, 2, 8, 9, seed=25).softmax(1)[0, 0].flatten()  # the images are 0, 25, 50, 75
    assert ((taken[1][:, :1] - of_image_25).abs().min(1).values < 1e-6).all()
