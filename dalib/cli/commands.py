"""The commands of the command line, one function each."""

import logging
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import cast, get_args

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor
from torch.nn.functional import interpolate as resize

from dalib.cli import NATIVE
from dalib.cli.joining import Job, joined
from dalib.cli.starting import without_garbage_collection
from dalib.core.arguments import check_sizes
from dalib.core.create import loss_from, strategy_from, validator_from
from dalib.core.modules import OwnedModule
from dalib.core.plan import PlannedStrategy
from dalib.core.ramp import Ramp
from dalib.core.teacher import Teacher
from dalib.core.trained_classes import untrained
from dalib.data.dataset import checked_item, classes_of, label_pixels, mask_advice, same_classes, spread
from dalib.data.decode import IMAGE_SUFFIXES, read_image
from dalib.data.doctor import Findings, compare, compare_sizes, counted, examine_new
from dalib.data.faults import Fault
from dalib.data.files import find_images
from dalib.data.reframe import Resize
from dalib.deploy.bench import VARIANTS
from dalib.deploy.bench import bench as run_bench
from dalib.deploy.bench_table import bench_table
from dalib.deploy.export import export as export_model
from dalib.deploy.runtimes import ExportedFile
from dalib.discovery import default_registry
from dalib.errors import DalibError, DataError
from dalib.evaluation.evaluate import evaluate as score_model
from dalib.evaluation.predict import predict_images
from dalib.evaluation.result import Result
from dalib.files import check_writable, write_json
from dalib.labels import CITYSCAPES_CLASSES
from dalib.losses import SegmentationLoss
from dalib.models.wrapper import SegmentationModel, unwrap
from dalib.registry import Kind
from dalib.runs.build import (
    build_dataset,
    build_eval,
    check_classes,
    engine_on_paper,
    open_dataset,
    overridden,
)
from dalib.runs.folder import RunFolder
from dalib.runs.held_out import trained_on
from dalib.runs.loading import load_run
from dalib.runs.progress import image_bar, tell
from dalib.runs.recipe import DEFAULT_VALIDATORS, Recipe, load_recipe
from dalib.runs.run import run as run_recipe
from dalib.runs.select import select as select_checkpoints

logger = logging.getLogger("dalib")

STACK = ("strategies", "plugins")  # sections that may change around the network of a finished run
SKIPPED = 3  # the exit status: done, but some inputs were skipped and are named
CALIBRATED_ON = 32  # images, of which every second one is for the comparison


def train(options: Namespace) -> None:
    """Train a recipe into a run folder."""
    with joined() as job:
        recipe = load_recipe(options.recipe, options.overrides)
        stored = RunFolder(Path(options.recipe)).recipe.is_file()  # a run's folder stands for its recipe
        out = options.out or (Path(options.recipe) if stored else Path("runs") / Path(options.recipe).stem)
        job.connect(recipe.train.timeout, recipe.train.device)
        run_recipe(recipe, out, resume=options.resume, before=options.before, console=job.console())


def evaluate(options: Namespace) -> None:
    """Evaluate a run, or an exported file on a recipe's data."""
    with joined() as job:
        _evaluate(options, job)


def _evaluate(options: Namespace, job: Job) -> None:
    score: Callable[..., Result]
    console = job.console()
    recipe = None if options.recipe is None else load_recipe(options.recipe)
    stack = [override for override in options.overrides if override.startswith(STACK)]
    others = [override for override in options.overrides if override not in stack]
    if Path(options.run).suffix == ".onnx":
        if recipe is None:
            raise DalibError(f"{options.run}: name what it is scored on with --recipe, such as its run's recipe.yaml.")
        if stack:
            raise DalibError(f"override {stack[0]!r}: an exported file has no strategies around it; evaluate the run.")
        recipe = overridden(recipe, others)
        file = ExportedFile(options.run)
        classes, score = file.classes, partial(score_model, file, names=file.classes)
    else:
        with console.status("loading the run"):
            loaded = load_run(options.run, overrides=options.overrides if recipe is None else stack)
        recipe = loaded.recipe if recipe is None else overridden(recipe, others)
        classes = loaded.classes
        score = partial(loaded.engine.evaluate, teacher=recipe.evaluate.model == "teacher")
    dataset, unlabelled = build_eval(recipe, classes)
    if unlabelled:
        logger.warning("no labels to score on: %s.", unlabelled)
    for seen in () if unlabelled else _also_trained_on(recipe):
        logger.warning("data.eval: %s", seen)
    if not unlabelled and classes is not None:
        same_classes({str(options.run): classes, "data.eval": classes_of(dataset)})
        if advice := mask_advice(classes, label_pixels(dataset)):
            logger.warning("data.eval: of the classes one alone has pixels.%s", advice)
    if not job.rank:
        _check_json(options)
    job.connect(recipe.train.timeout, None)
    settings = recipe.evaluate
    with image_bar(console, "evaluating") as progress:
        result = score(
            dataset,
            protocol=settings.protocol,
            classes=settings.classes,
            batch_size=settings.batch_size,
            limit=settings.limit,
            workers=recipe.data.workers,
            progress=progress,
        )
    console.print(result.table())
    if options.json and not job.rank:
        write_json(Path(options.json), result.to_dict())


def select(options: Namespace) -> None:
    """Rank the checkpoints of runs without a label of the target."""
    with joined() as job:
        _select(options, job)


def _select(options: Namespace, job: Job) -> None:
    console = job.console()
    recipes = [load_recipe(run) for run in options.runs if RunFolder(Path(run)).recipe.is_file()]  # and their plugins
    recipe = None if options.recipe is None else load_recipe(options.recipe)
    places = dict.fromkeys(options.validators or DEFAULT_VALIDATORS, "--validators") | {options.by: "--by"}
    validators = {name: validator_from({"use": name}, place) for name, place in places.items()}
    if not job.rank:
        _check_json(options)
    job.connect(max([600, *(each.train.timeout for each in recipes)]), None)
    with image_bar(console, "judging") as progress:
        ranking = select_checkpoints(options.runs, validators, recipe=recipe, progress=progress)
    for path, reason in ranking.left_out.items():
        logger.warning("left out: %s: %s.", path, reason)
    told = ranking.to_dict(options.by)
    console.print(ranking.table(options.by))
    for remark in (f"chosen by {options.by}: {told['chosen']}", *told["remarks"]):
        tell(console, remark)
    if options.json and not job.rank:
        write_json(Path(options.json), told)


def predict(options: Namespace) -> int:
    """Segment images; status 3 when some could not be read."""
    console = Console()
    stack = [given for given in options.inputs if given.startswith(STACK) and "=" in given]
    inputs = [Path(given) for given in options.inputs if given not in stack]
    if not inputs:
        raise DalibError(f"{stack[0]} changes the stack; name the images or folders to predict, too.")
    with console.status("loading the run"):
        loaded = load_run(options.run, overrides=stack)
    engine, own, started = loaded.engine, options.size is None, time.perf_counter()
    with image_bar(console, "predicting") as progress:
        done = predict_images(
            engine.network(options.teacher),
            inputs,
            Path(options.out),
            loaded.palette,
            loaded.classes,
            engine.device,
            predict=engine.predictor(engine.network(options.teacher)),
            size=_size(loaded.recipe, "eval") if own else None if options.size == NATIVE else options.size,
            resize=_resize(loaded.recipe) if own else "squeeze",
            protocol=loaded.recipe.evaluate.protocol if own else "full",
            progress=progress,
        )
    rate = len(done.blends) / (time.perf_counter() - started)
    told = f"{counted(len(done.blends), 'image')} in {options.out} ({rate:.1f} images/s), labels in its folder labels"
    tell(console, told)
    for message in done.skipped.values():
        logger.warning("skipped: %s", message)
    return SKIPPED if done.skipped else 0


@without_garbage_collection()  # the model's libraries are imported here
def plan(options: Namespace) -> None:
    """Check a stack on the meta device, without data or memory, and print it."""
    recipe = load_recipe(options.recipe, options.overrides)
    if options.resolved:
        sys.stdout.write(recipe.to_yaml())
        return
    engine = engine_on_paper(recipe, _planned_classes(recipe))
    sizes = {name: _size(recipe, name) for name in recipe.data.names()}
    console = Console()
    made = engine.plan(sizes)
    check_sizes(engine.model, made.rows[-1].sizes if made.rows else sizes)
    engine.stack.check_training()
    for number, row in enumerate(made.rows, start=1):
        modules = [module for module in engine.modules.values() if module.owner == row.strategy.name]
        tell(console, _described(number, row, modules), indent=16 * " ")
    tell(console, f"backward passes per micro-batch: {len(engine.stack.groups)}; teacher: {_teacher(engine.teacher)}")
    tell(console, f"loaded: {', '.join(engine.stack.read(sizes))}")
    for warning in made.warnings:
        tell(console, f"warning: {warning}", "yellow")


def plugins(options: Namespace) -> None:
    """List plugins, broken ones with their errors, and the registered names."""
    registry = default_registry()
    found = Table("plugin", "module", "state", title="plugins")
    for name, module in registry.loaded.items():
        found.add_row(name, module, "loaded")
    for name, error in registry.broken.items():
        found.add_row(name, "", f"[red]broken[/]: {escape(error)}")
    names = Table("kind", "name", "plugin", title="registered names")
    for kind in get_args(Kind):
        for name in registry.names(kind):
            names.add_row(kind, name, registry.owner(kind, name))
    console = Console()
    console.print(found)
    console.print(names)


def doctor(options: Namespace) -> int:
    """Examine the data of a recipe, and whether its stack trains on them; status 2 when something in it is broken."""
    recipe = load_recipe(options.recipe, options.overrides)
    _check_json(options)
    console = Console()
    found: list[Findings] = []
    labelled: list[Findings] = []
    faults: dict[Fault, None] = {}
    strategies = [strategy_from(options, f"strategies[{i}]") for i, options in enumerate(recipe.strategies)]
    required = {field for strategy in strategies for field in strategy.requires}
    for name in (*recipe.data.names(), "eval"):
        one_size = name != "eval" and recipe.data.batch_size > recipe.train.accumulate
        if (
            name == "eval"
            and recipe.data.eval is None
            and (unlabelled := build_eval(recipe, labelled[0].classes if labelled else None)[1])
        ):
            tell(console, f"data.eval: no labels to score on: {unlabelled}", "yellow")
            continue
        for number, (path, chosen) in enumerate(recipe.data.entries(name).items()):
            create = partial(open_dataset, name, chosen, path)
            needs = f"{name}.label" in required
            with console.status(f"examining {path}"):
                found.append(
                    examine_new(create, name=path, limit=options.sample, one_size=one_size, needs_labels=needs)
                )
            if name != "target":  # whose labels are not read
                labelled.append(found[-1])
                compare(labelled[0], found[-1])
                loss = SegmentationLoss() if recipe.loss is None else loss_from(recipe.loss, "loss")
                flat = untrained(strategies, loss, found[-1].classes, {name: found[-1].pixels})
                found[-1].faults += [Fault("", reason) for reason in flat.values()]
            if name == "eval" and not number:
                found[-1].remarks += _also_trained_on(recipe)
            if one_size and number:
                compare_sizes(found[-1 - number], found[-1])
            console.print(found[-1].render(known=faults), "", sep="\n", soft_wrap=not console.is_terminal)
            faults |= dict.fromkeys(found[-1].faults)
    stack = ""
    try:
        engine_on_paper(recipe, labelled[0].classes if labelled else CITYSCAPES_CLASSES).stack.check_training()
    except DalibError as error:
        stack = str(error)
        faults[Fault("", stack)] = None
        console.print(f"the stack: {stack}\n", style="bold red", markup=False, highlight=False, soft_wrap=True)
    console.print(
        counted(len(faults), "fault") if faults else "no faults", style="bold red" if faults else "bold green"
    )
    if options.json:
        sets = [findings.to_dict() for findings in found]
        write_json(Path(options.json), {"faults": len(faults), "sets": sets, "stack": stack})
    return 2 if faults else 0


def _also_trained_on(recipe: Recipe) -> list[str]:
    """Return what to tell of images that are scored and trained on."""
    with suppress(DalibError):  # a data set that cannot be opened is told elsewhere, or is not needed to score
        return [seen] if (seen := trained_on(recipe)) else []
    return []


def bench(options: Namespace) -> None:
    """Measure networks, registered ones and those of runs."""
    console, rows = Console(), []
    with console.status("building the networks"):
        measured = run_bench(
            [_network(name) for name in options.networks],
            tuple(options.size),
            options.variants or VARIANTS,
            device=options.device,
            threads=options.threads,
            seconds=options.seconds,
        )
    _check_json(options)
    doing = f"measuring, for some {2 * options.seconds:.3g} s each"
    try:
        with console.status(doing, refresh_per_second=2):  # a livelier one would take part in what is measured
            for row in measured:
                rows.append(row)
                logger.info("%s, %s: %.1f ms", row.model, row.variant, row.median_ms)
    finally:  # what is measured is kept when the next one fails
        if rows:
            console.print(bench_table(rows))
            if options.json:
                write_json(Path(options.json), {"rows": [row.to_dict() for row in rows]})


def _network(name: str) -> str | tuple[str, SegmentationModel]:
    """Return a run's model with its name, or the name of a registered network."""
    if not Path(name).exists():
        return name
    return name, cast(SegmentationModel, unwrap(load_run(name, device="cpu").engine.model))


def export(options: Namespace) -> None:
    """Write a run's model for other runtimes."""
    console = Console()
    with console.status("loading the run"):
        loaded = load_run(options.run, device="cpu")
    trained = _size(loaded.recipe, "eval")
    size = tuple(options.size) if options.size else trained or (512, 1024)
    image = None if options.image is None else read_image(Path(options.image)).float() / 255
    if around := [strategy.name for strategy in loaded.engine.stack.implementing("predictor")]:
        logger.warning(
            "the run predicts through %s; the file is of the network alone, and gives what it gives without.",
            ", ".join(around),
        )
    with console.status("exporting and comparing"):
        written = export_model(
            loaded.engine.network(options.teacher),
            options.out,
            size,
            image=image,
            classes=loaded.classes,
            palette=loaded.palette,
            calibrate=_calibration(options, loaded.recipe, size),
        )
    tell(console, str(written))


def _calibration(options: Namespace, recipe: Recipe, size: tuple[int, int]) -> list[Tensor] | None:
    """Return images (3, H, W) in [0, 1] to calibrate int8 on, spread over a folder or a recipe's target."""
    if not options.int8:
        if options.calibrate:
            raise DalibError("--calibrate names the pictures that int8 is calibrated on; add --int8, or leave it out.")
        return None
    source = Path(options.calibrate) if options.calibrate else None
    if source is not None and source.suffix.lower() in IMAGE_SUFFIXES and source.is_file():
        raise DalibError(
            f"{source}: --calibrate takes a folder of pictures, or a recipe with data.target; found a picture."
        )
    if source is not None and source.is_dir() and not RunFolder(source).recipe.is_file():
        files = list(find_images(source).values())
        pictures = [read_image(files[i]) for i in spread(len(files), CALIBRATED_ON)]
    else:
        dataset = build_dataset(recipe if source is None else load_recipe(source), "target")
        if dataset is None:
            raise DalibError("the recipe has no data.target to calibrate int8 on; name a folder with --calibrate.")
        indices = spread(len(dataset), CALIBRATED_ON)
        pictures = [checked_item(dataset, i, with_label=False).image for i in indices]
    return [resize(picture[None].float() / 255, size, mode="bilinear", antialias=True)[0] for picture in pictures]


def _check_json(options: Namespace) -> None:
    """Check before the work that the file of --json can be written."""
    if options.json:
        check_writable(Path(options.json))


def _planned_classes(recipe: Recipe) -> tuple[str, ...]:
    """Return the classes of the data sets that are here, or Cityscapes' 19 where none is."""
    found, absent = {}, []
    for name in (*recipe.data.names(), *(["eval"] if recipe.data.eval is not None else [])):
        try:
            found[name] = build_dataset(recipe, name)
        except (DataError, OSError) as error:
            absent.append(error)
            logger.warning("%s: %s", name, error)
    present = {name: dataset for name, dataset in found.items() if dataset is not None}
    if present:
        return check_classes(present)
    logger.warning("No data set is here, so the stack is checked with Cityscapes' 19 classes.")
    return CITYSCAPES_CLASSES


def _size(recipe: Recipe, name: str) -> tuple[int, int] | None:
    """Return the (H, W) that all data sets of a stream or ``eval`` are given; None where it is not known."""
    sizes = [options.get("size") for options in recipe.data.entries(name).values()]
    size = sizes[0] if all(size == sizes[0] for size in sizes) else None
    return (size[0], size[1]) if isinstance(size, list) else None


def _resize(recipe: Recipe) -> Resize:
    """Return how the images of ``eval`` are brought to their size."""
    resizes: list[Resize] = [options.get("resize", "squeeze") for options in recipe.data.entries("eval").values()]
    return resizes[0] if resizes else "squeeze"


def _teacher(teacher: Teacher | None) -> str:
    if teacher is None:
        return "none"
    start = f", from step {teacher.start} on" if teacher.start else ""
    return f"EMA {_value(teacher.decay)}, BatchNorm {teacher.batch_norm}{start}"


def _value(value: float | Ramp) -> str:
    if isinstance(value, int | float):
        return f"{value:g}"
    start = value.get("start", 0)
    return f"{value['from']:g} to {value['to']:g} in steps {start} to {start + value['steps']}"


def _kind(module: OwnedModule) -> str:
    return (module.trains or "frozen") + (", averaged" if module.averaged is not None else "")


def _described(number: int, row: PlannedStrategy, modules: Sequence[OwnedModule]) -> str:
    """Return a row of a plan as text, a line per aspect, whose values begin at the 17th column."""
    strategy = row.strategy
    kind = "" if strategy.name == strategy.registered_name else f" ({strategy.registered_name})"
    outputs, critic_outputs = (
        "any" if of is None else ", ".join(sorted(of)) for of in (strategy.outputs, strategy.critic_outputs)
    )
    aspects = {
        "hooks": ", ".join(row.hooks),
        "reads": ", ".join(sorted(strategy.requires)),
        "writes": ", ".join(sorted(strategy.writes | strategy.provides)),
        "outputs": f"{outputs} (backward pass {row.group + 1})" if outputs and row.group is not None else "",
        "critics see": critic_outputs if "critic_loss" in row.hooks else "",
        "modules": ", ".join(f"{module.name.partition('/')[2]} ({_kind(module)})" for module in modules),
        "sizes after": ", ".join(
            f"{n} {'?' if size is None else f'{size[0]}x{size[1]}'}" for n, size in row.sizes.items()
        ),
    }
    lines = [f"    {name:<12}{text}" for name, text in aspects.items() if text]
    return "\n".join([f"{number}. {strategy.name}{kind}, weight {_value(strategy.weight)}", *lines])
