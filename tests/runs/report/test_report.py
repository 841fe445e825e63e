"""The report of a run."""

import base64
import json
import re
from html.parser import HTMLParser
from io import BytesIO

import pytest
import torch
from PIL import Image

from dalib.errors import DataError
from dalib.evaluation.panels import draw_panel, write_png
from dalib.runs.report import write_report
from dalib.runs.report.run_files import read_run

HOSTILE = '<script>alert("x")</script>'
RESULTS = {
    "miou": 0.5,
    "iou": {"road": 0.75, "sky": 0.25, HOSTILE: None},
    "counted": ["road", "sky"],
    "protocol": "dacs",
    "images": 1_500,
    "steps": 40_000,
    "seconds": 5_000.0,
    "time": {"supervised": 30.0, "fda": 10.0},
    "before": {"name": "source only", "miou": 0.375, "iou": {"road": 0.25, "sky": 0.5}},
    "palette": {"road": [1, 2, 3]},
    "pixel_accuracy": 0.625,
    "confusion": [[3, 1, 0], [2, 2, 0], [0, 0, 0]],
    "bad_items": {"a.png": f"a.png: damaged {HOSTILE}"},
}


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "my run"
    folder.mkdir()
    records = [{"step": s, "supervised/loss": 1 / (s + 1), "lr": 1e-4, "images_per_second": 8} for s in range(5)]
    records[4] |= {"eval/miou": 0.5, f"fda/{HOSTILE}": float("nan")}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "results.json").write_text(json.dumps(RESULTS))
    (folder / "environment.json").write_text(
        json.dumps({"torch": "2.14", "note": HOSTILE, "started": "2026-11-26 01:02:03"})
    )
    (folder / "recipe.yaml").write_text(f"# {HOSTILE}\nmodel: {{use: bisenet}}\n")
    write_png(folder / "panels" / f"{HOSTILE.replace('/', '')}.png", torch.zeros(3, 4, 8, dtype=torch.uint8))
    return folder


class Tags(HTMLParser):
    """Every tag and address of a page, and whether the tags nest."""

    def __init__(self, page):
        super().__init__()
        self.open, self.names, self.addresses = [], set(), []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.names.add(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.names.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_nests_loads_nothing_and_runs_nothing(run_folder):
    page = write_report(run_folder).read_text()
    tags = Tags(page)
    assert tags.open == []
    assert tags.addresses
    assert all(address.startswith("data:image/png;base64,") for address in tags.addresses)
    assert not tags.names & {"script", "link", "iframe", "object", "alert"}
    assert not re.search(r"https?://|@import|url\(", page)


def test_text_from_the_run_is_escaped_everywhere(run_folder):
    page = write_report(run_folder).read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 5  # class, term, environment, recipe, panel


def test_page_shows_the_numbers_of_the_run(run_folder):
    page = write_report(run_folder).read_text()
    for shown in (
        "my run",
        "source only",
        "62.5",
        'title="road taken for sky: 25.0%"',
        'title="sky taken for sky: 50.0%"',
        "2026-11-26 01:02:03",
        "50.0",
        "37.5",
        "+12.5 over before",
        "40,000",
        "Protocol dacs, 1,500 images",
        "1 h 23 min",
        "+50.0",
        "-25.0",
    ):
        assert shown in page
    assert "#010203" in page  # the run's own palette wins over Cityscapes'
    assert "75%" in page.split("Where the time went")[1]
    assert "1 of 1 values are not finite" in page


@pytest.mark.parametrize("kept", ["metrics.jsonl", "results.json", "recipe.yaml"])
def test_any_part_alone_makes_a_report(run_folder, kept):
    for path in run_folder.iterdir():
        if path.name not in (kept, "panels"):
            path.unlink()
    assert Tags(write_report(run_folder).read_text()).open == []


def test_a_run_before_that_had_no_labels_gets_no_card_and_no_key_but_its_name(run_folder):
    before = {"name": "photos alone", "miou": None, "iou": {"road": None, "sky": None}}
    (run_folder / "results.json").write_text(json.dumps(RESULTS | {"before": before}))
    page = write_report(run_folder).read_text()
    assert "mIoU % before" not in page and "</i>before</span>" not in page and "over before" not in page
    assert "Prediction before: that of the run photos alone." in page.split("Samples")[1]


def test_a_class_of_iou_0_is_told_from_an_absent_one(run_folder):
    scores = {"iou": {"road": 0.0, "sky": 0.0}, "counted": ["road"], "absent": ["sky"], "before": {}, "confusion": []}
    (run_folder / "results.json").write_text(json.dumps(RESULTS | scores))
    road, sky = re.findall(r"<li.*?</li>", write_report(run_folder).read_text().split("IoU by class")[1])[:2]
    assert "<strong>0.0</strong>" in road and "<strong>–</strong>" in sky and ">absent</small>" in sky


@pytest.mark.parametrize(("given", "row"), [({}, 6), ({"best": {"miou": 0.5, "step": 3}}, 4), ({"before": {}}, 5)])
def test_no_card_of_the_headline_stands_alone_in_a_row(given, row, run_folder):
    (run_folder / "results.json").write_text(json.dumps(RESULTS | given))
    tiles = write_report(run_folder).read_text().split('<section class="tiles"')[1].split("</section>")[0]
    assert tiles.startswith(f' style="--row:{row}"') and tiles.count('class="card tile') % row != 1


def test_one_evaluation_makes_no_curve_and_two_do(run_folder):
    assert "<h2>Evaluation</h2>" not in write_report(run_folder).read_text()
    with (run_folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 9, "eval/miou": 0.625}) + "\n")
    assert "step 9: 62.5" in write_report(run_folder).read_text().split("<h2>Evaluation</h2>")[1]


def test_run_without_a_score_yet_makes_a_report(run_folder):
    (run_folder / "results.json").write_text(json.dumps({"miou": None, "iou": {"road": None}, "time": {}}))
    assert "absent" in write_report(run_folder).read_text()


def test_a_folder_of_something_else_is_an_error(tmp_path):
    with pytest.raises(DataError, match="expected a run folder"):
        write_report(tmp_path)


def test_curves_survive_a_torn_line_and_take_the_later_of_two_values(tmp_path):
    lines = ('"step": 2, "a/b": 1, "c/d": 7}', '"step": 1, "a/b": 5}', '"step": 2, "a/b": 3, "e": "x"}', '"step": 3,')
    (tmp_path / "metrics.jsonl").write_text("\n".join("{" + line for line in lines))
    assert read_run(tmp_path).curves == {"a/b": [(1, 5), (2, 3)], "c/d": [(2, 7)]}


def test_a_class_without_pixels_has_no_row_of_what_it_was_taken_for(run_folder):
    page = write_report(run_folder).read_text().split("What was taken for what")[1].split("</table>")[0]
    assert page.count("scope=row") == 2 and page.count("scope=col") == 3


def test_skipped_files_are_listed(run_folder):
    page = write_report(run_folder).read_text()
    assert "a.png: damaged &lt;script" in page.split("Skipped files")[1]


def test_a_panel_is_taken_apart_into_its_pictures_under_its_title(run_folder):
    colors = {"image": 10, "truth": 20, "prediction": 30}
    panel = draw_panel({name: torch.full((3, 6, 8), value, dtype=torch.uint8) for name, value in colors.items()})
    contents = {"title": "worst of 3: a.png", "captions": list(colors), "size": [6, 8]}
    for old in (run_folder / "panels").iterdir():
        old.unlink()
    write_png(run_folder / "panels" / "1_worst.png", panel, {"dalib": json.dumps(contents)})
    page = write_report(run_folder).read_text()
    assert "worst of 3: a.png" in page
    pictures = re.findall(r'base64,([^"]+)" alt="(\w+)"', page)
    assert [name for _, name in pictures] == list(colors)
    for data, name in pictures:
        picture = Image.open(BytesIO(base64.b64decode(data)))
        assert picture.size == (8, 6) and picture.getextrema() == ((colors[name],) * 2,) * 3
    assert re.findall(r'<input type="checkbox" aria-label="enlarge: (\w+)"><img', page) == list(colors)  # on a click
