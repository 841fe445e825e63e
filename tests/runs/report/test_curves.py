"""The numbers behind the curves."""

import math
import re

import pytest

from dalib.runs.report.curves import POINTS, line_chart, nice_ticks, running_mean, short, thin, tick_labels


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0, 0.25, 0.5, 0.75, 1]),
        (0.03, 0.46, [0, 0.2, 0.4, 0.6]),
        (2.0, 2.0, [1, 1.5, 2, 2.5, 3]),
        (0.0, 0.0, [0, 0.25, 0.5, 0.75, 1]),
        (-1e-5, 9e-5, [-2.5e-5, 0, 2.5e-5, 5e-5, 7.5e-5, 1e-4]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(low, high, expected):
    assert nice_ticks(low, high) == pytest.approx(expected)


def test_figures_at_the_axis_differ_and_have_room():
    assert tick_labels([0.3455, 0.346, 0.3465]) == ["0.3455", "0.346", "0.3465"]
    for low, high in ((2.25e-4, 9.75e-4), (0.3461, 0.3463), (0.0, 1.0), (123_456.0, 123_460.0)):
        chart = line_chart([(0, low), (10, high)], color="red", label="x", smooth=False)
        figures = re.findall(r'x="([\d.]+)" y="[\d.]+" text-anchor="end">([^<]+)<', chart)[:-1]  # without the last step
        assert len({figure for _, figure in figures}) == len(figures) >= 3
        assert all(float(right) >= 6 * len(figure) for right, figure in figures)


def test_running_mean_keeps_a_constant_and_the_gap_of_a_nan():
    series = [(i, math.nan if i == 50 else 3.0) for i in range(100)]
    smoothed = running_mean(series)
    assert [s for s, _ in smoothed] == list(range(100))
    assert math.isnan(smoothed[50][1])
    assert all(value == pytest.approx(3) for step, value in smoothed if step != 50)


def test_running_mean_is_the_weighted_mean_of_what_came_before():
    series = [(i, float(i % 7)) for i in range(80)]
    keep = 0.5 ** (40 / 80)
    weights = [keep ** (79 - i) for i in range(80)]
    expected = sum(w * v for w, (_, v) in zip(weights, series, strict=True)) / sum(weights)
    assert running_mean(series)[-1][1] == pytest.approx(expected)


def test_long_curves_are_thinned_with_both_ends():
    series = [(i, 0.0) for i in range(10_000)]
    assert len(thin(series)) == POINTS
    assert (thin(series)[0][0], thin(series)[-1][0]) == (0, 9_999)


def test_short_numbers():
    assert [short(v) for v in (0, 0.4283, 2.5e-4, 13_750, 2.5e6, -0.2)] == [
        "0",
        "0.428",
        "2.5e-4",
        "13.8k",
        "2.5M",
        "-0.2",
    ]


@pytest.mark.parametrize("values", [[0.5], [math.nan], [math.inf, 1.0], [1.0, math.nan, 2.0, 3.0]])
def test_charts_of_awkward_values_hold_only_finite_coordinates(values):
    chart = line_chart([(10 * i, v) for i, v in enumerate(values)], color="red", label="x", smooth=True)
    shapes = re.sub("<title>.*?</title>", "", chart)  # the hints do name a nan
    assert not re.search("nan|inf", shapes)


def test_a_nan_interrupts_the_line():
    chart = line_chart([(0, 1.0), (1, math.nan), (2, 2.0)], color="red", label="x", smooth=False)
    assert chart.split('class="curve" d="')[1].split('"')[0].count("M") == 2
