"""What a run shows, on terminals of 80 and 120 columns and elsewhere."""

import io
import re

import pytest
from rich.console import Console

from dalib.runs.progress import STOPPING, Display, image_bar, tell

TERMS = {
    **{f"adversarial/{name}": 0.34567 for name in ("adversarial", "source", "target")},
    "supervised/source": 2.5,
    "dacs/mixed": 1.25,
    "dacs/confident": 0.5,
    "minent/entropy": 0.97,
    "lr": 2.5e-4,
    "seconds": 12.0,
    "images_per_second": 3.25,
}


def terminal(width):
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)


def last_frame(console):
    """Return the lines that a terminal shows in the end: what follows the last erased line."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue().rpartition("\x1b[2K")[2]).splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_bar_steps_and_time_keep_their_line_and_the_terms_stand_below_it(width):
    console = terminal(width)
    with Display(console, 4000, 0, 4) as display:
        for step in (50, 100):
            display.step(step)
            display.log(step, TERMS)
    bar, *terms = last_frame(console)
    assert re.fullmatch(r"training [━╸╺ ]+100/4000 \S+ *(\S+ images/s)?\s*", bar) and len(bar) <= width
    assert all(len(line) <= width for line in terms)
    shown = " ".join(" ".join(terms).split())
    assert all(f"{name} {value:.4g}" in shown for name, value in TERMS.items() if "/" in name)
    assert "lr" not in shown and "images_per_second" not in shown


def test_the_columns_of_the_terms_keep_their_places_as_figures_change():
    places = []
    for value in (0.0, 2.5, 1.234e-5):
        console = terminal(80)
        with Display(console, 100, 0, 4) as display:
            display.log(10, dict.fromkeys(TERMS, value))
        places.append([[line.find(name) for name in TERMS] for line in last_frame(console)[1:]])
    assert places[0] == places[1] == places[2]


def test_prose_breaks_between_words_on_a_terminal_alone_and_paths_are_never_cut():
    path = "/a/path/that/is/longer/than/the/terminal"
    text = f"no labels [to] score on: {path} has none; name some."
    console, plain = terminal(30), Console(file=io.StringIO(), width=30)
    for each in (console, plain):
        tell(each, text)
    assert console.file.getvalue().split("\n") == ["no labels [to] score on:", path, "has none; name some.", ""]
    assert plain.file.getvalue() == f"{text}\n"


def test_scores_are_in_percent_stay_until_the_next_and_name_the_best_step():
    console = terminal(80)
    with Display(console, 100, 0, 4) as display:
        display.log(20, {"eval/miou": 0.312})
        display.log(40, {"eval/miou": 0.2504})
        display.log(50, TERMS)
    assert "eval/miou 25.0 % (best 31.2 % at step 20)" in " ".join(last_frame(console))


def test_a_log_gets_a_plain_line_a_step_with_everything():
    console = Console(file=io.StringIO(), width=80)
    with Display(console, 100, 0, 4) as display:
        display.step(20)
        display.log(20, {"supervised/source": 2.5, "images_per_second": 3.25, "eval/miou": 0.312})
        display.log(30, {"supervised/source": 2.25})
    assert console.file.getvalue() == (
        "step 20/100  supervised/source 2.5  images_per_second 3.25  eval/miou 31.2 % (best so far)\n"
        "step 30/100  supervised/source 2.25\n"
    )


def test_an_evaluation_on_the_way_and_a_stop_are_said_on_the_bars_line():
    console = terminal(80)
    with Display(console, 100, 0, 4) as display:
        display.evaluating(3, 20)
        display._live.refresh()
        assert last_frame(console)[-1].startswith("evaluating 3/20 ")
        display.stopping()
        display.evaluating(20, 20)
    assert last_frame(console)[0].startswith(f"{STOPPING} ")


@pytest.mark.parametrize("width", [80, 120])
def test_a_bar_of_images_tells_their_rate_and_goes_when_it_is_done(width):
    console = terminal(width)
    with image_bar(console, "predicting") as progress:
        for done in range(1, 4):
            progress(done, 8)
    frames = console.file.getvalue()
    assert "predicting" in frames and "3/8" in frames and not "".join(last_frame(console)).strip()


def test_a_quiet_run_takes_no_hold_of_what_a_program_prints(capsys):
    with Display(Console(quiet=True, force_terminal=False), 10, 0, 1):
        print("mine")  # noqa: T201
    assert capsys.readouterr().out == "mine\n"
