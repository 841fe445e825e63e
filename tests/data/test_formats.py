"""The published formats, in trees as their makers ship them."""

import numpy as np
import pytest
import torch
from cityscapesscripts.helpers.labels import labels as official_labels
from PIL import Image

from dalib.data.acdc import acdc
from dalib.data.bdd100k import bdd100k
from dalib.data.camvid import camvid, split_of
from dalib.data.carla import carla
from dalib.data.cityscapes import cityscapes
from dalib.data.dark_zurich import dark_zurich
from dalib.data.dataset import label_pixels
from dalib.data.doctor import examine
from dalib.data.folder import folder
from dalib.data.gta5 import gta5
from dalib.data.joined import Joined
from dalib.data.synthia import synthia
from dalib.errors import DataError
from tests.png import deep_png

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
    "acdc": (acdc, {}, "rgb_anon: expected ACDC's images, found nothing"),
    "acdc split": (acdc, {"split": "tset"}, "acdc: expected a split of train, val, test, found 'tset'. Did you mean"),
    "dark_zurich": (dark_zurich, {}, "rgb_anon/train/night: expected Dark Zurich's images, found nothing"),
    "bdd100k": (bdd100k, {}, "images/10k/train: expected BDD100K's train images, found nothing"),
    "synthia": (synthia, {}, "RGB: expected SYNTHIA's images, found nothing"),
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


def names(dataset):
    return [image.name.removesuffix("_rgb_anon.png") for image, _ in dataset.files]


def test_gta5_reads_the_train_ids_that_a_preparation_wrote_beside_its_labels_only_where_these_are_missing(
    save, rgb, tmp_path
):
    save("images/00001.png", rgb)
    save("labels/00001_labelTrainIds.png", EXPECTED.numpy())
    assert torch.equal(gta5(root=str(tmp_path))[0][1], EXPECTED)
    save("labels/00001.png", indexed(LABEL_IDS))
    dataset = gta5(root=str(tmp_path))
    assert dataset.files[0][1].name == "00001.png" and torch.equal(dataset[0][1], EXPECTED)


STREET = np.repeat(np.array([[0, 0, 1, 2, 8, 8, 10, 10, 11, 13]], np.uint8), 6, 0)  # train ids


@pytest.mark.parametrize(
    ("open_set", "image", "label"),
    [
        (gta5, "images/{}.png", "labels/{}.png"),
        (cityscapes, "leftImg8bit/train/a/{}_leftImg8bit.png", "gtFine/train/a/{}_gtFine_labelIds.png"),
    ],
)
def test_train_ids_where_ids_are_read_are_a_fault_before_training_and_of_the_doctor(
    save, tmp_path, open_set, image, label
):
    ids = {train_id: stored for stored, train_id in zip(range(35), TRAIN_IDS.tolist(), strict=True) if train_id < 255}
    for name in "abc":
        save(image.format(name), np.zeros((6, 10, 3), np.uint8))
        save(label.format(name), STREET)
    dataset = open_set(root=str(tmp_path))
    said = r"expected Cityscapes' ids, found none above 18 and \d\d % of the pixels ignored, as of train ids"
    with pytest.raises(DataError, match=said):
        label_pixels(dataset)
    with pytest.raises(DataError, match=said):
        label_pixels(Joined({"one": dataset, "other": dataset}))
    assert "as of train ids. Read them with `use: folder`" in str(examine(dataset).faults[0])
    for name in "abc":
        save(label.format(name), np.vectorize(ids.get)(STREET).astype(np.uint8))
    assert not examine(open_set(root=str(tmp_path))).faults
    assert label_pixels(open_set(root=str(tmp_path)))[:19].nonzero().flatten().tolist() == [0, 1, 2, 8, 10, 11, 13]


def test_cityscapes_with_all_files_in_one_folder_tells_the_split_by_the_city(save, rgb, tmp_path):
    for city in ("aachen", "frankfurt", "bonn"):
        save(f"{city}_000000_000019_leftImg8bit.png", rgb)
        save(f"{city}_000000_000019_gtFine_labelIds.png", LABEL_IDS)
        save(f"{city}_000000_000019_gtFine_color.png", rgb)
    for split, city in (("train", "aachen"), ("val", "frankfurt")):
        dataset = cityscapes(root=str(tmp_path), split=split)
        assert names(dataset) == [f"{city}_000000_000019_leftImg8bit.png"] and torch.equal(dataset[0][1], EXPECTED)
    assert names(cityscapes(root=str(tmp_path), split="test")) == ["bonn_000000_000019_leftImg8bit.png"]


def test_cityscapes_flattened_below_its_two_folders_or_by_split(save, rgb, tmp_path):
    for city in ("aachen", "munster"):
        save(f"one/leftImg8bit/{city}_0_1_leftImg8bit.png", rgb)
        save(f"one/gtFine/{city}_0_1_gtFine_labelTrainIds.png", EXPECTED.numpy())
    save("two/val/aachen_0_1_leftImg8bit.png", rgb), save("two/val/aachen_0_1_gtFine_labelIds.png", LABEL_IDS)
    for root, name in (("one", "munster"), ("two", "aachen")):
        dataset = cityscapes(root=str(tmp_path / root), split="val")
        assert names(dataset) == [f"{name}_0_1_leftImg8bit.png"] and torch.equal(dataset[0][1], EXPECTED)


@pytest.fixture
def night(save, rgb, ids, tmp_path):
    """ACDC and Dark Zurich, whose trees are of one kind."""
    for condition, sequence in (("fog", "GOPR0475"), ("night", "GOPR0351")):
        for split in ("train", "val", "test"):
            frame = f"{sequence}/{sequence}_frame_00004{split[0]}"
            save(f"acdc/rgb_anon/{condition}/{split}/{frame}_rgb_anon.png", rgb)
            save(f"acdc/rgb_anon/{condition}/{split}_ref/{frame}_rgb_ref_anon.png", rgb)
            if split != "test":
                for kind in ("labelTrainIds", "labelIds", "labelColor", "invIds"):
                    pixels = ids if kind == "labelTrainIds" else ids * 0
                    save(f"acdc/gt/{condition}/{split}/{frame}_gt_{kind}.png", pixels)
    (tmp_path / "acdc/rgb_anon/rain").mkdir(), (tmp_path / "acdc/rgb_anon/snow").mkdir()
    for split, time, frame in (
        ("train", "day", "GOPR0345/GOPR0345_frame_1"),
        ("train", "night", "GOPR0351/GOPR0351_frame_2"),
        ("val", "night", "GOPR0356/GOPR0356_frame_3"),
    ):
        save(f"dark/rgb_anon/{split}/{time}/{frame}_rgb_anon.png", rgb)
    save("dark/rgb_anon/val_ref/day/GOPR0356_ref/GOPR0356_frame_3_ref_rgb_anon.png", rgb)
    save("dark/gt/val/night/GOPR0356/GOPR0356_frame_3_gt_labelTrainIds.png", ids)
    save("dark/gt/val/night/GOPR0356/GOPR0356_frame_3_gt_labelColor.png", rgb)
    return tmp_path


def test_acdc_reads_one_condition_or_all_and_leaves_clear_weather_out(night, save, rgb, ids):
    root = str(night / "acdc")
    fog = acdc(root=root, condition="fog", split="val")
    assert names(fog) == ["GOPR0475_frame_00004v"] and torch.equal(fog[0][1], torch.from_numpy(ids))
    with pytest.raises(DataError, match=r"rgb_anon/rain/train: expected ACDC's images, found nothing; .* `condition`"):
        acdc(root=root)
    for condition in ("rain", "snow"):
        save(f"acdc/rgb_anon/{condition}/train/GOPR0400/GOPR0400_frame_1_rgb_anon.png", rgb)
        save(f"acdc/gt/{condition}/train/GOPR0400/GOPR0400_frame_1_gt_labelTrainIds.png", ids)
    assert len(acdc(root=root)) == 4 and acdc(root=root)[0][1].min() == 0
    test = acdc(root=root, split="test", condition="night")
    assert test[0][1].unique().tolist() == [255]
    assert acdc(root=root, labels=None)[0][1].unique().tolist() == [255]


def test_dark_zurich_has_labels_of_val_alone_and_trains_by_night(night, ids):
    root = str(night / "dark")
    assert names(dark_zurich(root=root)) == ["GOPR0351_frame_2"]
    assert dark_zurich(root=root)[0][1].unique().tolist() == [255]
    assert names(dark_zurich(root=root, time="day")) == ["GOPR0345_frame_1"]
    val = dark_zurich(root=root, split="val")
    assert names(val) == ["GOPR0356_frame_3"] and torch.equal(val[0][1], torch.from_numpy(ids))
    assert dark_zurich(root=root, split="val", labels=None).files[0][1] is None


@pytest.mark.parametrize(
    ("make", "tree", "split", "place"),
    [(acdc, "acdc", "train_ref", "fog/train_ref"), (dark_zurich, "dark", "val_ref", "val_ref/day")],
)
def test_the_same_places_in_clear_weather_are_no_split_and_the_message_says_what_reads_them(
    make, tree, split, place, night
):
    with pytest.raises(DataError, match=rf"expected a split of train, val, test, found '{split}'\. ") as caught:
        make(root=str(night / tree), split=split)
    root = str(night / tree / "rgb_anon" / place)
    assert f"by {{use: folder, root: {root}}}." in str(caught.value)
    assert len(folder(root=root)) == 1


@pytest.mark.parametrize("split", ["val", "test"])
def test_dark_zurich_has_another_time_of_day_in_train_alone(split, night):
    with pytest.raises(DataError, match=rf"expected `time: night` with the split '{split}', which has no other.*'day'"):
        dark_zurich(root=str(night / "dark"), split=split, time="day")


def test_folder_reads_such_trees_by_the_endings_of_their_names(night, ids):
    options = {"image_suffix": "_rgb_anon.png", "label_suffix": "_gt_labelTrainIds.png"}
    dataset = folder(root=str(night / "acdc"), images="rgb_anon/fog", labels="gt/fog", split="val", **options)
    assert names(dataset) == ["GOPR0475_frame_00004v"] and torch.equal(dataset[0][1], torch.from_numpy(ids))
    clear = folder(root=str(night / "acdc"), images="rgb_anon/fog/val_ref", image_suffix="_rgb_ref_anon.png")
    assert len(clear) == 1


@pytest.mark.parametrize(
    ("images", "labels"),
    [("images/10k", "labels/sem_seg/masks/{}/{}.png"), ("seg/images", "seg/labels/{}/{}_train_id.png")],
)
def test_bdd100k_opens_both_of_its_archives(save, rgb, ids, tmp_path, images, labels):
    for split in ("train", "val", "test"):
        save(f"{images}/{split}/0a0a0b1a-{split}.jpg", rgb)
        if split != "test":
            save(labels.format(split, f"0a0a0b1a-{split}"), ids)
            save(labels.replace("masks", "colormaps").replace("_train_id", "_train_color").format(split, "x"), rgb)
    for split in ("train", "val"):
        dataset = bdd100k(root=str(tmp_path), split=split)
        assert names(dataset) == [f"0a0a0b1a-{split}.jpg"] and torch.equal(dataset[0][1], torch.from_numpy(ids))
    assert bdd100k(root=str(tmp_path), split="test")[0][1].unique().tolist() == [255]
    assert bdd100k(root=str(tmp_path), labels=None)[0][1].unique().tolist() == [255]


# fmt: off
SYNTHIA = {  # by its makers' table; 13 is parking slot, 14 road work, 22 lane marking
    0: 255, 1: 10, 2: 2, 3: 0, 4: 1, 5: 4, 6: 8, 7: 5, 8: 13, 9: 7, 10: 11, 11: 18, 12: 17, 13: 255, 14: 255, 15: 6,
    17: 12, 19: 15, 21: 3, 22: 255,
}
# fmt: on


def test_synthia_has_its_ids_in_the_first_of_three_channels_of_sixteen_bits(save, tmp_path):
    stored = np.zeros((2, 20, 3), int)
    stored[..., 0], stored[..., 1] = list(SYNTHIA), np.arange(20) * 300  # the second channel numbers instances
    for name in ("0000000", "0000001"):
        save(f"RGB/{name}.png", np.zeros((2, 20, 3), np.uint8))
        (tmp_path / "GT/LABELS").mkdir(parents=True, exist_ok=True)
        deep_png(tmp_path / f"GT/LABELS/{name}.png", stored)
        save(f"GT/COLOR/{name}.png", np.zeros((2, 20, 3), np.uint8))
    dataset = synthia(root=str(tmp_path))
    assert len(dataset) == 2 and dataset[1][1][0].tolist() == list(SYNTHIA.values())
    (tmp_path / "some.txt").write_text("0000001.png")
    assert len(synthia(root=str(tmp_path), list="some.txt")) == 1
    for file in (tmp_path / "GT/LABELS").iterdir():
        file.unlink()
        save(f"GT/LABELS/{file.stem}_labelTrainIds.png", np.array([list(SYNTHIA.values())] * 2, np.uint8))
    assert synthia(root=str(tmp_path))[0][1][0].tolist() == list(SYNTHIA.values())


ALONE = {
    "gta5": (gta5, ["images/00001.png"], {}),
    "carla": (carla, ["CameraRGB/1.png"], {}),
    "cityscapes": (cityscapes, ["leftImg8bit/train/a/a_0_1_leftImg8bit.png"], {}),
    "camvid": (camvid, ["train/1.png"], {}),
    "camvid's original": (camvid, ["701_StillsRaw_full/0006R0_f00930.png"], {}),
}


@pytest.mark.parametrize(("factory", "files", "options"), ALONE.values(), ids=ALONE)
def test_labels_null_opens_the_images_alone(save, rgb, tmp_path, factory, files, options):
    for file in files:
        save(file, rgb)
    with pytest.raises(DataError, match="labels"):
        factory(root=str(tmp_path), **options)
    dataset = factory(root=str(tmp_path), labels=None, **options)
    assert len(dataset) == 1 and dataset.label(0) is None and (dataset[0][1] == 255).all()
