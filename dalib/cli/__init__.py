"""The command line: its arguments, errors and exit status; ``dalib.cli.commands`` does the work."""

import argparse
import errno
import logging
import math
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dalib import __version__
from dalib.errors import DalibError
from dalib.files import find_checkpoint
from dalib.prose import wrapped
from dalib.yaml import read_yaml

FAULT = 1
USER_ERROR = 2
INTERRUPTED = 130
RED, YELLOW = 31, 33
NATIVE = "native"  # the size of predict
OF_RANKS = ("train", "evaluate", "select")  # the commands whose work several ranks share

# Errors of the file system that the user can fix: a wrong path, its permissions, a full disk.
OUTSIDE = {
    *(errno.EACCES, errno.EDQUOT, errno.EISDIR, errno.ENAMETOOLONG),
    *(errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 2 for a user's error (one message, no traceback), 128 + a signal.

    ``predict`` ends with 3 where it is done, but left out images that could not be read.

    Any other exception propagates, with its traceback and status 1: it is a fault of dalib.
    """
    # Before torch is imported: OpenMP threads that spin while waiting made a step eight times slower on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        parser = make_parser()
        options, rest = parser.parse_known_args(arguments)
        _take_overrides(parser, options, rest)
        configure_logging()
        if not _among_ranks():  # which say the same once, when they know of one another
            _check_paths(options)
        from dalib.cli.starting import end_quickly, starting

        end_quickly()
        with starting("importing PyTorch"):
            from dalib.cli import commands
            from dalib.cli.joining import joined
            from dalib.discovery import allow_bundled_only

        if options.safe:
            allow_bundled_only()
        if options.command not in OF_RANKS and int(os.environ.get("WORLD_SIZE", "1")) > 1 and _among_ranks():
            with joined():  # so that one rank says it
                raise DalibError(
                    f"`dalib {options.command}` is a command of one process, and would be done by each of torchrun's; "
                    "start it without torchrun."
                )
        return int(getattr(commands, options.command.replace("-", "_"))(options) or 0)
    except DalibError as error:
        if not error.told:
            _say(str(error))
        stopped_by = getattr(error, "signal", None)  # of an InterruptedRunError
        return _ended(128 + stopped_by if stopped_by else USER_ERROR)
    except KeyboardInterrupt:
        _say("interrupted.")
        return _ended(INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe went away, as `| head` does
        return 0
    except Exception as error:
        if isinstance(error, OSError) and error.errno in OUTSIDE:
            of = error.filename or "a file"
            _say(f"{of}: {error.strerror}; check the path, its permissions and the disk's space.")
            return _ended(USER_ERROR)
        if not _among_ranks():
            raise
        if _first_to_say(told := traceback.format_exc()):
            print(told, file=sys.stderr)  # noqa: T201
        return _ended(FAULT)


def _among_ranks() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def _ended(status: int) -> int:
    """Return the status; a rank ends with it at once, for torch would wait for collectives that will never complete."""
    if _among_ranks():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _check_paths(options: argparse.Namespace) -> None:
    """Refuse a recipe or a run that is not there before PyTorch is imported, which takes seconds."""
    recipe, run = getattr(options, "recipe", None), getattr(options, "run", None)
    for path in getattr(options, "runs", ()):
        find_checkpoint(Path(path))
    if run is not None and not run.endswith(".onnx"):
        find_checkpoint(Path(run))
    if recipe is not None and not Path(recipe).is_dir():
        read_yaml(Path(recipe))


def configure_logging() -> None:
    """Write dalib's log messages from INFO on to stderr, and each warning on one line without its source line."""
    warnings.formatwarning = lambda message, *_, **__: _colored(_wrapped(f"warning: {message}"), YELLOW) + "\n"
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_ToStderr()], force=True)
    logging.getLogger("dalib").setLevel(logging.INFO)


class _ToStderr(logging.Handler):
    """Writes to what ``sys.stderr`` is at the time, so that a message stands above a bar that is being drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        text = _wrapped(self.format(record))
        _write(_colored(text, YELLOW) if record.levelno >= logging.WARNING else text)


def _write(line: str) -> None:
    sys.stderr.write(f"{line}\n")  # at once, since torchrun's processes are unbuffered and share the stream


def _say(message: str) -> None:
    if _first_to_say(message):
        _write(_colored(_wrapped(f"dalib: {message}"), RED))


def _first_to_say(message: str) -> bool:
    """Return whether no other rank of this process's job has said it."""
    ranks = sys.modules.get("dalib.ranks")  # not yet imported where nothing has begun
    return ranks is None or ranks.watch is None or bool(ranks.watch.first_to_say(message))


def _wrapped(text: str) -> str:
    """Return a text for stderr, broken between words where that is a terminal; a path is never cut."""
    if not sys.stderr.isatty():
        return text
    return wrapped(text, os.get_terminal_size(sys.stderr.fileno()).columns or 80)  # 0 where nobody has set it


def _colored(text: str, color: int) -> str:
    """Return a text for stderr in a colour of ANSI, where that is a terminal and NO_COLOR is not set."""
    return f"\033[{color}m{text}\033[0m" if sys.stderr.isatty() and not os.environ.get("NO_COLOR") else text


def _take_overrides(parser: argparse.ArgumentParser, options: argparse.Namespace, rest: list[str]) -> None:
    """Accept overrides after options, too, which argparse leaves unparsed."""
    unknown = [word for word in rest if word.startswith("-") or "=" not in word or not hasattr(options, "overrides")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        options.overrides = [*options.overrides, *rest]


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; it imports nothing heavy, so that --help answers at once."""
    parser = argparse.ArgumentParser(
        prog="dalib", description="Unsupervised domain adaptation for semantic segmentation, from one recipe."
    )
    parser.add_argument("--version", action="version", version=f"dalib {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = _add_command(commands, "train", "train what a recipe says, evaluate and report it")
    _add_recipe(train)
    train.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/NAME-OF-THE-RECIPE)")
    train.add_argument("--resume", action="store_true", help="go on from the folder's last checkpoint, if there is one")
    train.add_argument("--before", metavar="RUN", help="a run to compare with in panels and report")

    evaluate = _add_command(commands, "evaluate", "score a run or an exported file on its evaluation data, or others")
    _add_run(evaluate, " or an exported .onnx file")
    evaluate.add_argument("--recipe", metavar="R", help="whose data.eval and evaluate count (default: the run's own)")
    evaluate.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. data.eval.split=test")
    evaluate.add_argument("--json", metavar="FILE", help="write the result here, too")

    predict = _add_command(commands, "predict", "segment images and folders of images")
    _add_run(predict)
    predict.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="images, or folders of images; and changes of the stack, such as 'strategies=[{use: crf}]'",
    )
    predict.add_argument(
        "--out", metavar="DIR", required=True, help="where blends, and in labels/ train ids, are written"
    )
    predict.add_argument(
        "--size",
        nargs="+",
        action=_SizeOrNative,
        metavar=("H", "W"),
        help="size that the network sees, or `native`: the image's own (default: that of the run's evaluation)",
    )
    predict.add_argument("--teacher", action="store_true", help="use the teacher instead of the student")

    plan = _add_command(commands, "plan", "check a recipe's stack and print it in order")
    _add_recipe(plan)
    plan.add_argument("--resolved", action="store_true", help="print the whole recipe instead")

    _add_command(commands, "plugins", "list the installed plugins and what they register")

    doctor = _add_command(commands, "doctor", "examine a recipe's data: counts, sizes, labels, broken files")
    _add_recipe(doctor)
    doctor.add_argument("--sample", type=count, metavar="N", help="read at most N images of each set")
    doctor.add_argument("--json", metavar="FILE", help="write all findings here, every fault of a long list included")

    bench = _add_command(commands, "bench", "measure networks: parameters, multiply-adds, latency, memory")
    bench.add_argument(
        "networks",
        nargs="+",
        metavar="NETWORK",
        help="registered models, see `dalib plugins`; with options in quotes: 'timm backbone=convnext_atto'; or runs",
    )
    bench.add_argument("--size", nargs=2, type=count, default=(512, 1024), metavar=("H", "W"), help="default: 512 1024")
    bench.add_argument(
        "--variants",
        nargs="+",
        metavar="V",
        help="channels-last, fused, bf16, compiled, joined by +; or eager, onnxruntime[-int8], openvino[-int8]",
    )
    bench.add_argument("--device", metavar="D", help="cpu or cuda (default: the GPU where there is one)")
    bench.add_argument("--threads", type=count, metavar="N", help="threads of the CPU")
    bench.add_argument(
        "--seconds", type=seconds, default=5.0, metavar="S", help="how long each is measured (default: 5)"
    )
    bench.add_argument("--json", metavar="FILE", help="write the rows here, too")

    select = _add_command(commands, "select", "rank runs and their checkpoints without a label of the target")
    select.add_argument("runs", nargs="+", metavar="RUN", help="folders of finished runs, or single checkpoints")
    select.add_argument("--by", default="ensv", metavar="V", help="the validator that chooses (default: ensv)")
    select.add_argument("--validators", nargs="+", metavar="V", help="those shown beside it, see `dalib plugins`")
    select.add_argument(
        "--recipe", metavar="R", help="whose data.eval, evaluate.protocol and evaluate.limit count for all"
    )
    select.add_argument("--json", metavar="FILE", help="write the ranking here, too")

    export = _add_command(commands, "export", "write a run's model as ONNX or torch.export, checked by running it")
    _add_run(export)
    export.add_argument("--out", metavar="FILE", required=True, help="a path ending in .onnx or .pt2")
    export.add_argument(
        "--size", nargs=2, type=count, metavar=("H", "W"), help="traced at this size (default: the run's, or 512 1024)"
    )
    export.add_argument("--image", metavar="FILE", help="a picture to compare on (default: a made-up street)")
    export.add_argument("--int8", action="store_true", help="quantise the .onnx file, calibrated on target pictures")
    export.add_argument(
        "--calibrate", metavar="DIR|RECIPE", help="pictures, or a recipe with data.target (default: the run's recipe)"
    )
    export.add_argument("--teacher", action="store_true", help="export the teacher instead of the student")
    for command in commands.choices.values():
        command.add_argument("--safe", action="store_true", help="import no plugins but dalib's own")
    return parser


def count(text: str) -> int:
    """Return an argument as an integer; argparse.ArgumentTypeError unless it is at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


class _SizeOrNative(argparse.Action):
    """Takes two whole numbers, or ``native``."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        try:
            size = NATIVE if values == [NATIVE] else tuple(map(count, values))
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from None
        if size != NATIVE and len(size) != 2:
            raise argparse.ArgumentError(self, f"expected H W, or {NATIVE}, got {' '.join(values)}")
        setattr(namespace, self.dest, size)


def seconds(text: str) -> float:
    """Return an argument as seconds; argparse.ArgumentTypeError unless it is finite and at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of seconds, got {text!r}")
    return value


def _add_command(commands: Any, name: str, does: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=does, description=does)
    return parser


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the folder of a run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. train.steps=100 strategies.1.beta=0.05")


def _add_run(parser: argparse.ArgumentParser, more: str = "") -> None:
    parser.add_argument("run", metavar="RUN", help=f"a run's folder or one of its checkpoints{more}")
