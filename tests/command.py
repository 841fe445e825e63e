"""The command line as a test sees it: its status and what it says."""

import pytest

from dalib.cli import main

RECIPE = """\
model: {use: bisenet}
data:
  source: {use: diorama, domain: source, size: [32, 64], length: 6}
  target: {use: diorama, domain: target, size: [32, 64], length: 6}
  eval: {use: diorama, domain: target, split: val, size: [32, 64], length: 2}
  batch_size: 2
strategies:
  - {use: supervised}
optimizer: {use: sgd, lr: 1e-2}
train: {steps: 2, log_every: 1}
"""

TINY = RECIPE.replace("bisenet", "tiny") + "plugins: [tests.tiny_plugin]\n"


def run_dalib(*arguments: object) -> int:
    """Run a command in this process and return its exit status."""
    return main([str(argument) for argument in arguments])


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Return the message of a command that must fail for the user's mistake: status 2 and one line."""
    capsys.readouterr()
    assert run_dalib(*arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("dalib: ") and said[-2:] in (".\n", "?\n") and said.count("\n") == 1, said
    return said.removeprefix("dalib: ").rstrip("\n")
