"""The confusion matrix and its scores, against counting by hand and against the official Cityscapes evaluator."""

import numpy
import pytest
import torch
from rich.console import Console

from dalib.errors import DataError
from dalib.evaluation.label_free import LabelFree
from dalib.evaluation.metrics import ConfusionMatrix, best_class, intersection_over_union
from dalib.evaluation.result import SUBSETS, Result, class_ids
from dalib.labels import CITYSCAPES_CLASSES


def result(confusion, classes=("road", "sky", "car"), counted=(0, 1, 2), **fields):
    return Result(confusion=torch.tensor(confusion), classes=classes, counted=counted, **fields)


def test_counts_equal_a_loop_over_pixels():
    generator = torch.Generator().manual_seed(0)
    matrix, expected = ConfusionMatrix(5), torch.zeros(5, 5, dtype=torch.int64)
    for _ in range(3):
        prediction = torch.randint(0, 5, (2, 9, 7), generator=generator)
        label = torch.randint(0, 6, (2, 9, 7), generator=generator, dtype=torch.uint8)
        label[label == 5] = 255
        matrix.update(prediction, label)
        for truth, guess in zip(label.flatten().tolist(), prediction.flatten().tolist(), strict=True):
            if truth != 255:
                expected[truth, guess] += 1
    assert torch.equal(matrix.compute(), expected)


def test_counting_leaves_the_labels_as_they_are():
    label = torch.tensor([[0, 1, 2, 255]])
    ConfusionMatrix(3).update(torch.ones(1, 4, dtype=torch.int64), label)
    assert label.tolist() == [[0, 1, 2, 255]]


def test_a_label_of_no_class_is_an_error_with_the_count():
    matrix = ConfusionMatrix(3)
    matrix.update(torch.zeros(1, 4, dtype=torch.int64), torch.tensor([[0, 3, 7, 255]]))
    with pytest.raises(DataError, match=r"2 pixels have a label outside 0\.\.2"):
        matrix.compute()


@pytest.mark.parametrize("num_classes", [1, 2, 19, 255])
def test_best_class_is_argmax_and_of_equal_logits_the_first(num_classes):
    logits = torch.randint(-2, 3, (2, num_classes, 9, 7), generator=torch.Generator().manual_seed(0)).float()
    logits[0, :, 0] = -torch.inf
    assert torch.equal(best_class(logits).long(), logits.argmax(1))


def test_iou_by_hand_with_an_absent_class():
    iou = intersection_over_union(torch.tensor([[3, 1, 0], [2, 4, 0], [0, 0, 0]]))
    assert iou.dtype == torch.float64
    assert iou[:2].tolist() == [3 / 6, 4 / 7]
    assert iou[2].isnan()


def test_epsilon_is_added_to_the_union():
    iou = intersection_over_union(torch.tensor([[3, 1], [2, 4]]), epsilon=2.0)
    assert iou.tolist() == [3 / 8, 4 / 9]


def test_counts_stay_on_their_device_until_they_are_asked_for():
    matrix, pixels = ConfusionMatrix(3, "meta"), torch.zeros(1, 4, dtype=torch.int64, device="meta")
    matrix.update(pixels, pixels)
    with pytest.raises(NotImplementedError, match="meta"):  # which has no values
        matrix.compute()


def test_mean_leaves_out_absent_classes_and_those_not_counted():
    confusion = [[3, 1, 0], [2, 4, 0], [0, 0, 0]]
    assert result(confusion).miou == pytest.approx((1 / 2 + 4 / 7) / 2, abs=1e-15)
    assert result(confusion).over(["sky", 2]).miou == pytest.approx(4 / 7, abs=1e-15)
    assert result(confusion).over(["car"]).miou is None


def test_the_labels_alone_decide_over_which_classes_the_mean_is():
    early, late = result([[3, 0, 1], [2, 4, 0], [0, 0, 0]]), result([[3, 1, 0], [2, 4, 0], [0, 0, 0]])
    assert early.averaged == late.averaged == (0, 1)
    assert early.iou[2] == 0 and early.miou == pytest.approx((3 / 6 + 4 / 6) / 2)
    assert early.absent == late.absent == ("car",)


def test_a_prediction_of_a_class_that_is_not_counted_is_still_an_error():
    assert result([[3, 0, 1], [0, 4, 0], [0, 0, 0]]).over(["road", "sky"]).iou[0] == 3 / 4


def test_synthia_subsets_hold_the_sixteen_and_thirteen_classes():
    sixteen = class_ids("synthia16", CITYSCAPES_CLASSES)
    assert sorted(set(range(19)) - set(sixteen)) == [9, 14, 16]
    assert set(SUBSETS["synthia16"]) - set(SUBSETS["synthia13"]) == {"wall", "fence", "pole"}


def test_classes_are_given_by_name_id_or_not_at_all():
    names = ("road", "sky", "car")
    assert class_ids(None, names) == (0, 1, 2)
    assert class_ids(["car", 0, "sky", 2], names) == (2, 0, 1, 2)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("synthia12", "no set of classes is called 'synthia12'. Did you mean"),
        (["rode"], "the data has no class 'rode'. Did you mean 'road'"),
        ([3], r"expected ids in 0\.\.2, got 3"),
        ([-1], r"expected ids in 0\.\.2, got -1"),
        ([], "at least one class"),
    ],
)
def test_unknown_classes_are_named(classes, message):
    with pytest.raises(DataError, match=message):
        class_ids(classes, ("road", "sky", "car"))


def test_equals_the_official_cityscapes_evaluator():
    official = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    train_ids = {label.id: label.trainId for label in official.labels if label.id >= 0}
    label_ids = {train: id for id, train in train_ids.items() if train < 255}
    random = numpy.random.default_rng(0)
    matrix, confusion = ConfusionMatrix(19), official.generateMatrix(official.args)
    for _ in range(2):
        truth = random.choice([i for i in train_ids if i != 33], (40, 60))  # a class never in the truth
        guess = random.integers(0, 18, (40, 60))  # and never predicted
        numpy.add.at(confusion, (truth, numpy.vectorize(label_ids.get)(guess)), 1)
        label = numpy.vectorize(train_ids.get)(truth)
        matrix.update(torch.from_numpy(guess), torch.from_numpy(numpy.where(label < 0, 255, label)))
    iou = intersection_over_union(matrix.compute())
    expected = [official.getIouScoreForLabel(label_ids[i], confusion, official.args) for i in range(19)]
    assert numpy.array_equal(iou.numpy(), numpy.array(expected), equal_nan=True)
    mean = official.getScoreAverage(dict(enumerate(expected)), official.args)
    assert Result(
        confusion=matrix.compute(), classes=CITYSCAPES_CLASSES, counted=tuple(range(19))
    ).miou == pytest.approx(mean, abs=1e-15)


def test_dictionary_has_names_and_no_nan():
    scores = result([[1, 0, 0], [0, 1, 0], [0, 0, 0]], counted=(0, 2), protocol="dacs", images=7).to_dict()
    assert scores == {
        "miou": 1.0,
        "iou": {"road": 1.0, "sky": 1.0, "car": None},
        "counted": ["road"],
        "absent": ["car"],
        "protocol": "dacs",
        "images": 7,
        "pixel_accuracy": 1.0,
        "confusion": [[1, 0, 0], [0, 1, 0], [0, 0, 0]],
    }


def test_table_shows_percent_by_class_and_the_mean():
    console = Console(width=60)
    with console.capture() as captured:
        console.print(result([[3, 1, 0], [2, 4, 0], [0, 0, 0]]).table())
    text = captured.get()
    for shown in ("road", "50.0", "57.1", "53.6", "40.0", "mean of 2"):
        assert shown in text


def test_the_table_says_protocol_and_images_and_dims_what_is_not_counted():
    table = result([[3, 1, 0], [2, 4, 0], [0, 0, 0]], counted=(0, 2), protocol="dacs", images=7).table()
    assert table.title == "protocol dacs, 7 images"
    assert [(c.header, c.footer, c.justify) for c in table.columns] == [
        ("class", "mean of 1 of 2", "left"),
        ("IoU %", "50.0", "right"),
        ("pixels %", "", "right"),
    ]
    assert [row.style for row in table.rows] == [None, "dim", "dim"]
    assert table.caption == "not in the mean, without a labelled pixel: car"
    assert [list(column.cells) for column in table.columns[1:]] == [["50.0", "57.1", "–"], ["40.0", "60.0", "absent"]]


def test_a_class_that_is_never_found_is_told_from_an_absent_one_that_is_predicted():
    table = result([[9990, 0, 10], [1, 0, 0], [0, 0, 0]]).table()
    assert [list(column.cells) for column in table.columns[1:]] == [["99.9", "0.0", "–"], ["100.0", "<0.1", "absent"]]
    assert [row.style for row in table.rows] == [None, None, "dim"]


def test_without_labels_a_class_that_is_never_predicted_has_no_figure():
    measures = LabelFree(
        images=1,
        entropy=0.5,
        confident=0.5,
        predicted=torch.tensor([0.9999, 0.0001, 0.0]),
        probability=torch.ones(3) / 3,
    )
    table = result([[0] * 3] * 3, label_free=measures).table({"road": 1.0, "sky": 0.0, "car": 0.0})
    assert [list(column.cells) for column in table.columns[1:]] == [["100.0", "<0.1", "–"], ["100.0", "–", "–"]]


def test_a_table_of_no_pixel_or_one_has_its_share():
    for pixels, share in ((0, "absent"), (1, "100.0")):
        assert list(result([[pixels]], ("road",), (0,)).table().columns[2].cells) == [share]


def test_a_result_counts_no_image_under_the_default_protocol_unless_it_says_so():
    assert (result([[1]]).protocol, result([[1]]).images, result([[1]]).epsilon) == ("full", 0, 0.0)
