"""The report of a run: one HTML file that needs nothing beside it."""

from pathlib import Path

from dalib.files import write_atomically
from dalib.runs.report.page import render
from dalib.runs.report.run_files import read_run

__all__ = ["write_report"]


def write_report(run_folder: Path) -> Path:
    """Write ``report.html`` from what the run folder holds so far, and return its path.

    Every file may be missing: a run that has just started gives a short report. It reads

    - ``metrics.jsonl``: a line per logged step, with ``step``, terms named ``strategy/term``, ``eval/miou``, ``lr``,
      ``images_per_second``;
    - ``results.json``: ``miou``, ``iou`` by class name, ``counted`` (names that the mean is over), ``absent`` (asked
      for, but without a labelled pixel), ``best`` (``miou`` and ``step`` of the best evaluation; ``by`` and ``score``
      where a validator chose it), ``validators`` (scores by name), ``steps``, ``seconds``, ``time`` (seconds by
      strategy name), ``before`` (``miou`` and ``iou`` before adaptation), ``palette`` (RGB by class name),
      ``trained_on`` (that scored images are trained on); where there are no labels, ``unlabelled`` (why) and
      ``label_free`` (``entropy``, ``confident``, ``threshold``, ``agreement``, ``predicted`` and ``source``: shares by
      class name);
    - ``environment.json``, ``recipe.yaml`` and ``panels/*.png``.

    Raises:
        DataError: the folder holds none of these files.
    """
    path = run_folder / "report.html"
    write_atomically(path, render(read_run(run_folder)).encode())
    return path
