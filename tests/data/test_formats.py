"""The published formats: gta5, cityscapes, camvid and carla."""

import numpy as np
import pytest
import torch
from cityscapesscripts.helpers.labels import labels as official_labels
from PIL import Image

from dalib.data.camvid import camvid, split_of
from dalib.data.carla import carla
from dalib.data.cityscapes import cityscapes
from dalib.data.folder import folder
from dalib.data.gta5 import gta5
from dalib.errors import DataError

LABEL_IDS = np.arange(48, dtype=np.uint8).reshape(6, 8) % 35
TRAIN_IDS = torch.tensor([{label.id: label.trainId for label in official_labels}.get(i, 255) for i in range(35)]).clamp(
    0, 255
)
EXPECTED = TRAIN_IDS[torch.from_numpy(LABEL_IDS).long()].to(torch.uint8)


def indexed(pixels):
    image = Image.fromarray(pixels).convert("P")
    image.frombytes(pixels.tobytes())
    image.putpalette([value for i in range(256) for value in (255 - i, i, 3)])
    return image


def test_gta5_reads_indices_not_colours_and_takes_everything_without_split(save, rgb, tmp_path):
    for name in ("00001", "00002"):
        save(f"images/{name}.png", rgb)
        save(f"labels/{name}.png", indexed(LABEL_IDS))
    dataset = gta5(root=str(tmp_path))
    assert len(dataset) == 2
    assert torch.equal(dataset[0][1], EXPECTED)
    (tmp_path / "val.txt").write_text("00002.png")
    assert len(gta5(root=str(tmp_path), split="val", list="{split}.txt")) == 1


def test_gta5_leaves_out_its_misfits_only_where_sizes_differ(save, rgb, tmp_path):
    for name, rows in (("00001", 6), ("15188", 5), ("17705", 6)):
        save(f"images/{name}.png", rgb)
        save(f"labels/{name}.png", indexed(LABEL_IDS[:rows]))
    assert [image.stem for image, _ in gta5(root=str(tmp_path)).files] == ["00001", "17705"]


@pytest.mark.parametrize("images", ["leftImg8bit/{}/bonn/{}_leftImg8bit", "images/{}/{}_leftImg8bit", "images/{}/{}"])
@pytest.mark.parametrize(("kind", "stored"), [("labelIds", LABEL_IDS), ("labelTrainIds", EXPECTED.numpy())])
def test_cityscapes_opens_nested_and_flattened_with_either_label(save, rgb, tmp_path, images, kind, stored):
    frame = "bonn_000000_000019"
    save(images.format("val", frame) + ".png", rgb)
    for other in (f"{kind}", "color", "instanceIds"):
        save(f"gtFine/val/bonn/{frame}_gtFine_{other}.png", stored)
    assert torch.equal(cityscapes(root=str(tmp_path), split="val")[0][1], EXPECTED)


def test_cityscapes_test_without_labels_is_ignored_and_train_is_the_default(save, rgb, tmp_path):
    save("leftImg8bit/test/berlin/berlin_000000_000019_leftImg8bit.png", rgb)
    assert cityscapes(root=str(tmp_path), split="test")[0][1].unique().tolist() == [255]
    with pytest.raises(DataError, match=r"leftImg8bit/train: expected Cityscapes' train images, found nothing"):
        cityscapes(root=str(tmp_path))


SEGNET = {0: 10, 1: 2, 2: 5, 3: 0, 4: 1, 5: 8, 6: 7, 7: 4, 8: 13, 9: 11, 10: 12, 11: 255}


def test_camvid_maps_the_eleven_classes_of_real_files(shared):
    root = shared / "data" / "native" / "camvid"
    dataset = camvid(root=str(root))
    assert len(dataset) == 6
    for index, (_, annotation) in enumerate(dataset.files):
        stored = np.array(Image.open(annotation))
        assert np.array_equal(dataset[index][1], np.vectorize(SEGNET.get)(stored))


def test_camvid_splits_equal_the_published_lists(shared):
    lists = shared / "data" / "carla_camvid" / "lists"
    for split in ("train", "val"):
        frames = (lists / f"target_{split}.txt").read_text().split()
        assert {split_of(frame) for frame in frames} == {split}
    assert [split_of(f) for f in ("Seq05VD_f00000", "0001TP_008550", "0001TP_008520_L")] == ["test", "test", "train"]


def test_camvid_reads_the_original_colours(save, rgb, tmp_path):
    colors = {(64, 128, 192): 13, (192, 0, 192): 12, (128, 0, 192): 0, (0, 64, 64): 7, (0, 0, 0): 255, (1, 1, 1): 255}
    painted = np.array([list(colors) + [(128, 128, 128)] * 2] * 6, dtype=np.uint8)
    for frame in ("0006R0_f00930", "Seq05VD_f00000"):
        save(f"701_StillsRaw_full/{frame}.png", rgb)
        save(f"LabeledApproved_full/{frame}_L.png", painted)
    dataset = camvid(root=str(tmp_path), split="train")
    assert [image.stem for image, _ in dataset.files] == ["0006R0_f00930"]
    assert dataset[0][1][0].tolist() == [*colors.values(), 10, 10]
    with pytest.raises(DataError, match="camvid: expected frames of the split 'val'"):
        camvid(root=str(tmp_path), split="val")


def test_carla_agrees_with_the_prepared_labels_of_the_same_frames(shared):
    root = str(shared / "data" / "native" / "carla")
    native = carla(root=root, size=(360, 480), sky_from_top=True, ignore_hood=True)
    prepared = folder(root=str(shared / "data" / "carla_camvid" / "source"))
    by_name = {image.stem: index for index, (image, _) in enumerate(prepared.files)}
    for index, (image, _) in enumerate(native.files):
        label, expected = native[index][1], prepared[by_name[f"carla_{image.stem}"]][1]
        both = (label != 255) & (expected != 255)
        assert torch.equal(label[both], expected[both])
        assert (label == expected).float().mean() > 0.99


def test_carla_sky_and_hood_end_at_the_first_other_pixel_of_a_column(save, rgb, tmp_path):
    seg = np.zeros((6, 8, 4), dtype=np.uint8)
    seg[2, :4, 0], seg[4, :, 0], seg[5, :7, 0], seg[..., 1] = 10, 7, 10, 99
    save("CameraRGB/a.png", rgb), save("CameraSeg/a.png", seg)
    plain, both = (carla(root=str(tmp_path), sky_from_top=on, ignore_hood=on)[0][1] for on in (False, True))
    assert plain[:, 0].tolist() == [255, 255, 13, 255, 0, 13]
    assert both[:, 0].tolist() == [10, 10, 13, 255, 0, 255]
    assert both[:, 7].tolist() == [10, 10, 10, 10, 0, 255]
    options = [{"sky_from_top": sky, "ignore_hood": hood} for sky in (False, True) for hood in (False, True)]
    datasets = [carla(root=str(tmp_path), **each) for each in options]
    assert all(torch.equal(dataset.label(0), dataset[0][1]) for dataset in datasets)
    assert len({str(dataset.labels_depend_on()) for dataset in datasets}) == 4


def test_carla_of_a_later_version_is_refused(save, rgb, tmp_path):
    save("CameraRGB/a.png", rgb), save("CameraSeg/a.png", np.full((6, 8, 3), 13, dtype=np.uint8))
    with pytest.raises(DataError, match="found 13"):
        carla(root=str(tmp_path))[0]


WRONG = {
    "gta5 root": (gta5, {}, "expected GTA5's images, found nothing"),
    "gta5 split": (gta5, {"split": "val"}, "expected GTA5's images, found nothing"),
    "cityscapes split": (cityscapes, {"split": "valid"}, "found 'valid'. Did you mean 'val'?"),
    "camvid split": (camvid, {"split": "tests"}, "found 'tests'. Did you mean 'test'?"),
    "camvid": (camvid, {}, "train: expected CamVid's train images, or 701_StillsRaw_full/ beside it, found nothing"),
    "carla": (carla, {}, "CameraRGB: expected CARLA's images, found nothing"),
}


@pytest.mark.parametrize(("factory", "options", "text"), WRONG.values(), ids=WRONG)
def test_wrong_root_or_split_is_an_error(tmp_path, factory, options, text):
    with pytest.raises(DataError) as caught:
        factory(root=str(tmp_path), **options)
    assert text in str(caught.value)


def test_cityscapes_without_labels_says_how_to_use_images_alone(save, rgb, tmp_path):
    save("leftImg8bit/train/a/a_0_1_leftImg8bit.png", rgb)
    with pytest.raises(DataError, match="for images alone: `labels: null`"):
        cityscapes(root=str(tmp_path))
    (tmp_path / "gtFine/train").mkdir(parents=True)
    with pytest.raises(
        DataError, match=r"expected \*_gtFine_labelIds\.png or \*_gtFine_labelTrainIds\.png, found neither"
    ):
        cityscapes(root=str(tmp_path))
