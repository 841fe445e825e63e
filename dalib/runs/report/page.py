"""The HTML page of a report: each section is a pure function of the run, and empty where the run lacks its data."""

import base64
import json
import math
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from dalib.evaluation.panels import GAP
from dalib.evaluation.result import share_text
from dalib.labels import CITYSCAPES_CLASSES, CITYSCAPES_PALETTE, Color
from dalib.runs.report.bars import Bar, bar_chart
from dalib.runs.report.curves import line_chart, short
from dalib.runs.report.run_files import RunRecord, Series

TILES = 6  # at most in a row
COLORS = 8  # --c0 to --c7 of the style sheet
EVALUATION = "eval/"


def render(run: RunRecord) -> str:
    """Return the page as HTML that loads no other file."""
    sections = (headline, overview, panels, confusion, losses, progress, skipped, settings)
    body = "\n".join(section(run) for section in sections)
    style = files("dalib.runs.report").joinpath("style.css").read_text(encoding="utf-8")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(run.name)} · dalib</title>
<style>
{style}</style>
</head>
<body>
<main>
<header><p>dalib run{_started(run)}</p><h1>{escape(run.name)}</h1></header>
{body}
</main>
</body>
</html>
"""


def headline(run: RunRecord) -> str:
    """The main figures: mIoU, steps, time and speed."""
    results, before, best = run.results, _before(run), run.results.get("best")
    rates = [value for _, value in run.curves.get("images_per_second", []) if math.isfinite(value)]
    tiles = [
        _tile("mIoU %", _percent(results.get("miou")), _under_miou(run), main=True),
        _best_tile(best) if best else "",
        *_label_free_tiles(results.get("label_free")),
        _tile("mIoU % before", _percent(before.get("miou")), before.get("name", "")) if before else "",
        _tile("pixel accuracy %", _percent(accuracy)) if (accuracy := results.get("pixel_accuracy")) else "",
        _tile("steps", f"{_steps(run):,}"),
        _tile("time", _duration(results["seconds"])) if "seconds" in results else "",
        _tile("images per second", f"{median(rates):.1f}", "median") if rates else "",
    ]
    tiles = [tile for tile in tiles if tile]
    row = math.ceil(len(tiles) / math.ceil(len(tiles) / TILES))  # rows of even length, none of a single tile
    return f'<section class="tiles" style="--row:{row}">{"".join(tiles)}</section>'


def _best_tile(best: Mapping[str, Any]) -> str:
    if "by" in best:
        return _tile(f"best by {best['by']}", f"{best['score']:.4g}", f"best at step {best['step']:,}")
    return _tile("best mIoU %", _percent(best["miou"]), f"best at step {best['step']:,}")


def overview(run: RunRecord) -> str:
    """IoU by class, the evaluations during training, and the time by part, in columns of even height."""
    scores = evaluation(run)
    several = scores.count("<svg") > 1  # they stand in a row of their own
    sections = classes(run) + ("" if several else scores) + time(run)
    return (f'<div class="columns">{sections}</div>' if sections else "") + (scores if several else "")


def evaluation(run: RunRecord) -> str:
    """Scores on held-out images along the run; a single one stands in the headline."""
    curves = {n: series for n, series in run.curves.items() if n.startswith(EVALUATION) and len(series) > 1}
    if EVALUATION + "miou" in curves:
        curves[EVALUATION + "miou %"] = [(step, 100 * value) for step, value in curves.pop(EVALUATION + "miou")]
    cards = [_chart(name, series, "var(--accent)", smooth=False) for name, series in curves.items()]
    return _section("Evaluation", f'<div class="charts">{"".join(cards)}</div>' if cards else "")


def losses(run: RunRecord) -> str:
    """One chart for each loss term, coloured by its strategy."""
    terms = {name: series for name, series in run.curves.items() if "/" in name and not name.startswith(EVALUATION)}
    colors = _strategy_colors(run)
    cards = [_chart(name, series, colors[name.split("/")[0]]) for name, series in terms.items()]
    note = "<p>Each logged term faint, its running mean bold.</p>"
    return _section("Learning curves", f'{note}<div class="charts">{"".join(cards)}</div>' if cards else "")


def progress(run: RunRecord) -> str:
    """Everything else that was logged, such as the learning rate."""
    curves = {name: series for name, series in run.curves.items() if "/" not in name and name != "seconds"}
    cards = [_chart(name, series, "var(--soft)", smooth=False) for name, series in curves.items()]
    return _section("Training", f'<div class="charts">{"".join(cards)}</div>' if cards else "")


def classes(run: RunRecord) -> str:
    """IoU of each class, before and after."""
    scores, before = run.results.get("iou", {}), _before(run).get("iou", {})
    if "unlabelled" in run.results:
        return predicted(run)
    if not scores:
        return ""
    counted, absent = run.results.get("counted", list(scores)), run.results.get("absent", [])
    palette = _palette(run)
    bars = [
        Bar(
            label=name,
            value=None if name in absent else score,
            before=before.get(name),
            figure=_percent(None if name in absent else score),
            note="absent" if name in absent else _class_note(score, before.get(name), name in counted),
            tone=_tone(score, before.get(name)) if name in counted else "tick",
            swatch=palette.get(name, ""),
            faint=name not in counted,
        )
        for name, score in scores.items()
    ]
    key = _key({"after": "var(--accent)", "before": "var(--before)"}) if before else ""
    chart = bar_chart(bars, label="intersection over union by class")
    return _section("IoU by class", f'{_protocol(run)}<div class="card">{key}{chart}</div>')


def predicted(run: RunRecord) -> str:
    """The share of each class in the predictions for images without labels, and in the labels of the source."""
    measures, palette = run.results.get("label_free", {}), _palette(run)
    source = measures.get("source", {})
    bars = [
        Bar(
            label=name,
            value=share,
            before=source.get(name),
            figure=share_text(share),
            note=share_text(source[name]) if name in source else "",
            swatch=palette.get(name, ""),
        )
        for name, share in measures.get("predicted", {}).items()
    ]
    key = _key({"predicted": "var(--accent)"} | ({"labels of the source": "var(--before)"} if source else {}))
    note = f"<p>No labels were given: {escape(run.results['unlabelled'])}.</p>"
    chart = bar_chart(bars, label="share of each class")
    return _section("Share of each class", f'{note}{_protocol(run)}<div class="card">{key}{chart}</div>')


def panels(run: RunRecord) -> str:
    """Sample images with truth and predictions, and what the colours mean."""
    pictures = "".join(_picture(path) for path in run.panels)
    legend = _key(_palette(run) | {"ignored": "#000000"}, "legend")
    name = run.results.get("before", {}).get("name")
    note = f"<p>Prediction before: that of the run {escape(name)}.</p>" if name else ""
    return _section("Samples", f'{note}<div class="card">{pictures}{legend}</div>' if pictures else "")


def confusion(run: RunRecord) -> str:
    """What the pixels of each class were taken for."""
    counts, names = run.results.get("confusion", []), list(run.results.get("iou", {}))
    present = [i for i, row in enumerate(counts) if sum(row)]
    if not present:
        return ""
    head = "".join(f"<th scope=col><span>{escape(name)}</span></th>" for name in names)
    rows = "".join(_shares(names, i, counts[i]) for i in present)
    return _section(
        "What was taken for what",
        "<p>Of the pixels of each class (row), the share in % that was predicted as each class (column).</p>"
        f'<div class="card wide"><table class="confusion"><tr><td></td>{head}</tr>{rows}</table></div>',
    )


def _shares(names: list[str], row: int, counts: list[int]) -> str:
    cells = []
    for column, count in enumerate(counts):
        share = count / sum(counts)
        tone = "var(--gain)" if column == row else "var(--loss)"
        hint = f"{names[row]} taken for {names[column]}: {share:.1%}"
        shown = f"{100 * share:.0f}" if share >= 0.005 else ""
        cells.append(
            f'<td title="{escape(hint)}" style="background:color-mix(in srgb,{tone} {70 * share:.0f}%,transparent)">'
            f"{shown}</td>"
        )
    return f"<tr><th scope=row>{escape(names[row])}</th>{''.join(cells)}</tr>"


def skipped(run: RunRecord) -> str:
    """Training images that could not be read."""
    rows = "".join(f"<li>{escape(message)}</li>" for message in run.results.get("bad_items", {}).values())
    return _section("Skipped files", f'<div class="card"><ul class="plain">{rows}</ul></div>' if rows else "")


def time(run: RunRecord) -> str:
    """Seconds of each strategy and of the engine's own work; a strategy has the colour of its learning curves."""
    seconds: dict[str, float] = run.results.get("time", {})
    total, colors = sum(seconds.values()), _strategy_colors(run)
    if not total:
        return ""
    longest = max(seconds.values())
    bars = [
        Bar(
            label=name,
            value=s / longest,
            figure=_duration(s),
            note=f"{s / total:.0%}",
            color=colors.get(name, "var(--before)"),
        )
        for name, s in sorted(seconds.items(), key=lambda item: -item[1])
    ]
    return _section(
        "Where the time went",
        f'<div class="card">{bar_chart(bars, label="seconds by part of the step")}</div>',
    )


def settings(run: RunRecord) -> str:
    """The recipe and the environment, so that the run can be repeated."""
    rows = "".join(_row(key, value) for key, value in run.environment.items())
    recipe = f'<div><h2>Recipe</h2><div class="card"><pre>{escape(run.recipe)}</pre></div></div>' if run.recipe else ""
    table = f'<div><h2>Environment</h2><div class="card"><table>{rows}</table></div></div>' if rows else ""
    return f'<section class="columns">{recipe}{table}</section>' if recipe or table else ""


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def _tile(name: str, value: str, note: str = "", *, main: bool = False) -> str:
    small = note if note.startswith("<") else f"<small>{escape(note)}</small>"
    return f'<div class="card tile{" main" if main else ""}"><p>{name}</p><strong>{escape(value)}</strong>{small}</div>'


def _chart(name: str, series: Series, color: str, *, smooth: bool = True) -> str:
    bad = sum(not math.isfinite(value) for _, value in series)
    warning = f"<p>{bad} of {len(series)} values are not finite</p>" if bad else ""
    chart = line_chart(series, color=color, label=f"{name} by step", smooth=smooth)
    last = f"<span>{short(series[-1][1])}</span>"
    title = f'<h3><span><i class="dot" style="background:{color}"></i>{escape(name)}</span>{last}</h3>'
    return f'<div class="card chart">{title}{chart}{warning}</div>'


def _protocol(run: RunRecord) -> str:
    """The evaluation protocol: scores are comparable only under the same one."""
    results = run.results
    if "protocol" not in results:
        return ""
    seen = f" Of data.eval: {escape(results['trained_on'])}" if "trained_on" in results else ""
    return f"<p>Protocol {escape(results['protocol'])}, {results.get('images', 0):,} images.{seen}</p>"


def _picture(path: Path) -> str:
    """A panel taken apart, so that its pictures find room below each other on a narrow screen."""
    with Image.open(path) as panel:
        panel.load()
    contents = json.loads(panel.info.get("dalib", "{}"))
    captions, (height, width) = contents.get("captions", [path.stem]), contents.get("size", panel.size[::-1])
    pictures = []
    for i, caption in enumerate(captions):
        left = i * (width + GAP)
        part, encoded = panel.crop((left, panel.height - height, left + width, panel.height)), BytesIO()
        part.save(encoded, "PNG")
        data = base64.b64encode(encoded.getvalue()).decode()
        image = f'<img src="data:image/png;base64,{data}" alt="{escape(caption)}">'
        zoom = f'<input type="checkbox" aria-label="enlarge: {escape(caption)}">{image}'
        pictures.append(f'<label title="click to enlarge">{zoom}<span>{escape(caption)}</span></label>')
    title = escape(contents.get("title", path.stem.replace("_", " ")))
    return f'<figure><figcaption>{title}</figcaption><div class="panel">{"".join(pictures)}</div></figure>'


def _key(colors: Mapping[str, str], style: str = "key") -> str:
    entries = (f'<span><i style="background:{color}"></i>{escape(name)}</span>' for name, color in colors.items())
    return f'<div class="{style}">{"".join(entries)}</div>'


def _palette(run: RunRecord) -> dict[str, str]:
    known: dict[str, Color] = dict(zip(CITYSCAPES_CLASSES, CITYSCAPES_PALETTE, strict=True))
    names = run.results.get("iou") or known
    known |= {name: tuple(color) for name, color in run.results.get("palette", {}).items()}
    return {name: "#{:02x}{:02x}{:02x}".format(*known[name]) for name in names if name in known}


def _strategy_colors(run: RunRecord) -> dict[str, str]:
    terms = [name for name in run.curves if "/" in name and not name.startswith(EVALUATION)]
    strategies = dict.fromkeys(name.split("/")[0] for name in terms)
    return {name: f"var(--c{i % COLORS})" for i, name in enumerate(strategies)}


def _started(run: RunRecord) -> str:
    started = run.environment.get("started")
    return f", {escape(started)}" if started else ""


def _steps(run: RunRecord) -> int:
    logged = max((series[-1][0] for series in run.curves.values()), default=0)
    return int(run.results.get("steps", logged))


def _percent(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def _difference(after: float | None, before: float | None) -> str:
    return "" if after is None or before is None else f"{100 * (after - before):+.1f}"


def _class_note(after: float | None, before: float | None, counted: bool) -> str:
    return "left out" if not counted else "absent" if after is None else _difference(after, before)


def _tone(after: float | None, before: float | None) -> str:
    return "tick" if after is None or before is None else "gain" if after >= before else "loss"


def _before(run: RunRecord) -> Mapping[str, Any]:
    """Return the scores of the run to compare with, empty where it had none, for want of labels."""
    before: Mapping[str, Any] = run.results.get("before", {})
    return {} if before.get("miou") is None else before


def _under_miou(run: RunRecord) -> str:
    if "unlabelled" in run.results:
        return "no labels given"
    return _against(run.results.get("miou"), _before(run).get("miou"))


def _label_free_tiles(measures: Mapping[str, Any] | None) -> list[str]:
    """Figures of the images without labels."""
    if measures is None:
        return []
    tiles = [
        _tile("mean entropy", f"{measures['entropy']:.3f}", "from 0, certain, to 1"),
        _tile("confident %", _percent(measures["confident"]), f"pixels at {measures['threshold']:g} or more"),
    ]
    if "agreement" in measures:
        tiles.append(_tile("agreement %", _percent(measures["agreement"]), "of student and teacher"))
    return tiles


def _against(after: float | None, before: float | None) -> str:
    difference = _difference(after, before)
    return f'<small class="{_tone(after, before)}">{difference} over before</small>' if difference else ""


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def _row(key: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return "".join(_row(f"{key} · {name}", part) for name, part in value.items())
    plain = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"<tr><th>{escape(key)}</th><td>{escape(plain)}</td></tr>"
