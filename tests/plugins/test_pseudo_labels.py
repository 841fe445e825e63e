"""Classes that a teacher is sure of, against a plain float64 reference; ``pseudo_label`` is tested with DACS."""

import torch

from dalib_plugins.pseudo_labels import confident_classes


def reference(logits, threshold):
    """Pixel by pixel and class by class, in float64."""
    probability, label = logits.double().softmax(1).max(1)
    sure = torch.zeros(label.shape, dtype=torch.bool)
    for image in range(len(label)):
        for k in label[image].unique():
            here = label[image] == k
            sure[image][here] = bool(probability[image][here].mean() >= threshold)
    return sure


def test_a_class_is_confident_where_its_pixels_mean_probability_reaches_the_threshold_in_its_image():
    logits = 3 * torch.randn(4, 6, 5, 7, generator=torch.Generator().manual_seed(0))
    for threshold in (0.6, 0.8):
        found = confident_classes(logits, threshold)
        assert torch.equal(found, reference(logits, threshold)) and 0 < found.float().mean() < 1


def test_half_precision_is_judged_in_float32():
    logits = torch.tensor([3.4375, 0.0]).view(1, 2, 1, 1).bfloat16()  # 0.96885
    assert confident_classes(logits, 0.9685).all() and not confident_classes(logits, 0.97).any()
