"""Distillation: its terms against plain references, its teachers by what names them, and its two stages."""

import copy
import math

import pytest
import torch

from dalib import Engine, create_model, create_strategy, load_model, make_recipe, run
from dalib.core import checkpoint
from dalib.errors import DalibError, RecipeError, StackError, WeightsError
from dalib.runs.folder import RunFolder
from dalib.runs.loading import load_run
from dalib.yaml import parse_yaml
from dalib_plugins.distill import Distill, divergence, similarity, soft_labels
from tests.command import TINY, refusal, run_dalib
from tests.tiny import Supervised, tiny_batch
from tests.tiny_plugin import dalib_register  # noqa: F401  (what the recipes name)


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def softmax(values):
    exponentials = [math.exp(value) for value in values]
    return [e / sum(exponentials) for e in exponentials]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_labels_are_the_mean_softmax_and_the_term_the_divergence_from_it(temperature):
    teachers, student = [3 * drawn(1, 4, 2, 3, seed=seed) for seed in (1, 2, 3)], drawn(1, 4, 2, 3)
    soft = soft_labels(teachers, temperature)
    values = divergence(student, soft, temperature)
    for row in range(2):
        for column in range(3):
            each = [softmax((of[0, :, row, column] / temperature).tolist()) for of in teachers]
            p = [sum(of[k] for of in each) / 3 for k in range(4)]
            q = softmax((student[0, :, row, column] / temperature).tolist())
            expected = temperature**2 * sum(p[k] * math.log(p[k] / q[k]) for k in range(4))
            assert soft[0, :, row, column].tolist() == pytest.approx(p, abs=1e-6)
            assert float(values[0, row, column]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_divergence_is_zero_for_the_teachers_own_logits_and_finite_where_it_is_certain():
    logits = torch.tensor([200.0, -200.0, 0.0]).view(1, 3, 1, 1)
    assert divergence(logits, soft_labels([logits])).abs().max() < 1e-6
    assert float(divergence(-logits, soft_labels([logits]))) == pytest.approx(400)


def test_similarities_are_cosines_of_averaged_cells():
    features = drawn(1, 5, 4, 6)
    found = similarity(features, (2, 3))[0]
    cells = [features[0, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2)) for i in range(2) for j in range(3)]
    for i, one in enumerate(cells):
        for j, other in enumerate(cells):
            cosine = float(one @ other / (one.norm() * other.norm()))
            assert float(found[i, j]) == pytest.approx(cosine, abs=1e-6)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of the tiny network with an EMA teacher, of which the second is scored by it."""
    folder = tmp_path_factory.mktemp("distill")
    for seed, scored in enumerate(("student", "teacher")):
        value = parse_yaml(TINY) | {"evaluate": {"model": scored}}
        value["strategies"] = [{"use": "supervised"}, {"use": "dacs"}]
        value["train"] = value["train"] | {"seed": seed}
        run(make_recipe(value), folder / scored)
    return folder


CLASSES = tuple(map(str, range(19)))


def engine(strategy, classes=None, model=None, **options):
    model = model or create_model("tiny", 19)
    return Engine(model, [Supervised(), strategy], device="cpu", classes=classes, **options)


def test_a_runs_model_is_that_which_its_own_recipe_scores(runs):
    images = torch.rand(2, 3, 12, 16)
    for name in ("student", "teacher"):
        loaded, whole = load_model(runs / name), load_run(runs / name)
        assert loaded.classes == whole.classes and not loaded.training
        with torch.no_grad():
            assert torch.equal(loaded(images), whole.engine.network(name == "teacher").eval()(images))
    assert torch.equal(
        load_model(runs / "student" / "checkpoints" / "last.pt")(images), load_model(runs / "student")(images)
    )


def test_its_terms_are_those_of_the_teachers_frozen_in_eval_mode(runs):
    teachers = [str(runs / "student"), str(runs / "teacher")]
    built = engine(Distill(teachers=teachers, temperature=2.0), load_model(teachers[0]).classes)
    student, batch = copy.deepcopy(built.model).train(), tiny_batch(0, (12, 16), num_classes=19)
    terms = built.step(batch)
    for stream in ("source", "target"):
        image = batch[stream].image
        with torch.no_grad():
            soft = soft_labels([load_model(path)(image) for path in teachers], 2.0)
            expected = divergence(student(image), soft, 2.0).mean()
        torch.testing.assert_close(terms[f"distill/{stream}"], expected, rtol=1e-5, atol=1e-6)
    state = built.state_dict()["modules"]
    assert set(state) == {"distill/teacher1", "distill/teacher2"}
    assert all(set(of) == {"fingerprint"} for of in state.values())


def test_weights_from_elsewhere_come_with_their_network(runs, tmp_path):
    network = create_model("tiny", 19)
    torch.save(network.network.state_dict(), tmp_path / "weights.pt")
    given = {"use": "tiny", "weights": str(tmp_path / "weights.pt")}
    built = engine(create_strategy("distill", teachers=[given], streams=["target"]))
    teacher = built.modules["distill/teacher1"].module
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in teacher.state_dict().items())
    assert set(built.step(tiny_batch(num_classes=19))) == {"supervised/loss", "distill/target"}


def test_a_wrong_teacher_is_refused(runs, tmp_path):
    run_folder = str(runs / "student")
    with pytest.raises(
        StackError, match=r"was trained on the classes road, .*, and this run has 0, 1, .*the same ones"
    ):
        engine(Distill(teachers=[run_folder]), CLASSES)
    with pytest.raises(StackError, match="has no weights; give it `weights: FILE`"):
        engine(Distill(teachers=[{"use": "tiny"}]))
    torch.save(create_model("tiny", 7).network.state_dict(), tmp_path / "seven.pt")
    with pytest.raises(WeightsError, match=r"seven\.pt was trained for 7 classes and this model has 19"):
        engine(Distill(teachers=[{"use": "tiny", "weights": str(tmp_path / "seven.pt")}]))
    lacking = {k: v for k, v in create_model("tiny", 19).network.state_dict().items() if not k.startswith("head.")}
    torch.save(lacking, tmp_path / "lacking.pt")
    with pytest.raises(StackError, match=r"lacking.pt lacks 2 tensors, head\.weight first"):
        engine(Distill(teachers=[{"use": "tiny", "weights": str(tmp_path / "lacking.pt")}]))
    with pytest.raises(DalibError, match="nowhere"):
        engine(Distill(teachers=[str(tmp_path / "nowhere")]))
    with pytest.raises(RecipeError, match="teachers"):
        create_strategy("distill", teachers=[])


def test_features_are_compared_by_the_similarity_of_their_cells(runs):
    teacher = str(runs / "student")
    options = {"teachers": [teacher], "streams": ["target"], "layers": {"body.2": "body.5"}, "feature_weight": 3.0}
    built = engine(Distill(**options, grid=(4, 40)), load_model(teacher).classes)
    student, batch = copy.deepcopy(built.model).train(), tiny_batch(0, (12, 16), num_classes=19)
    terms = built.step(batch)
    with torch.no_grad():
        mine = student(batch["target"].image, outputs=["body.2"])["body.2"]
        theirs = load_model(teacher)(batch["target"].image, outputs=["body.5"])["body.5"]
    expected = 3 * (similarity(mine, (4, 16)) - similarity(theirs, (4, 16))).square().mean()
    torch.testing.assert_close(terms["distill/target_features"], expected)


TWO_STAGES = {"streams": ["target"], "layers": {"body.5": "body.5"}, "feature_steps": 2, "freeze": ["body"]}


def test_in_two_stages_features_train_the_layers_and_then_predictions_the_rest(runs):
    teacher = str(runs / "student")

    def made():
        return engine(Distill(teachers=[teacher], **TWO_STAGES), load_model(teacher).classes, create_model("tiny", 19))

    def stepped(built, index):
        before = copy.deepcopy(built.model.network.state_dict())
        terms = built.step(tiny_batch(index, num_classes=19))
        after = built.model.network.state_dict()
        return set(terms) - {"supervised/loss"}, {key for key in after if not torch.equal(before[key], after[key])}

    built = made()
    for index in range(2):
        terms, changed = stepped(built, index)
        assert terms == {"distill/target_features"} and {"body.0.weight", "body.1.running_mean"} <= changed
    state = copy.deepcopy(built.state_dict())
    for index in range(2, 4):
        terms, changed = stepped(built, index)
        assert terms == {"distill/target"}
        assert changed == {"head.weight", "head.bias"}  # it gives no auxiliary logits
    resumed = made()
    resumed.load_state_dict(state)
    for index in range(2, 4):
        stepped(resumed, index)
    again, first = resumed.model.state_dict(), built.model.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in first.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_steps": 2}, "two stages need feature_steps, the layers"),
        ({"freeze": ["body"]}, "two stages need feature_steps, the layers"),
        ({"feature_steps": 2, "freeze": ["body"]}, "two stages need feature_steps, the layers"),
        ({"layers": {"body.5": "body.5"}, "teachers": ["a", "b"]}, "with one teacher's; name one teacher"),
        ({"layers": {"body.7": "body.5"}}, "has no layer 'body.7'"),
        ({"layers": {"body.5": "body.5"}, "feature_steps": 2, "freeze": ["boddy"]}, "no layer 'boddy'.*'body'"),
    ],
)
def test_options_that_do_not_fit_are_refused_without_a_teacher(options, message):
    with pytest.raises(StackError, match=message):
        engine(Distill(**({"teachers": ["a"]} | options)), purpose="plan")


def test_a_finished_run_needs_its_teachers_no_more(runs, tmp_path, capsys):
    value = parse_yaml(TINY)
    run(make_recipe(value), tmp_path / "teacher")
    value["strategies"] = [{"use": "supervised"}, {"use": "distill", "teachers": [str(tmp_path / "teacher")]}]
    run(make_recipe(value), tmp_path / "student")
    file = RunFolder(tmp_path / "teacher").last
    state = checkpoint.read(file)
    state["model"]["head.bias"] += 1
    checkpoint.write(state, file)
    assert refusal(capsys, "train", tmp_path / "student", "train.steps=3", "--resume").startswith(
        "the frozen module 'distill/teacher1' has other weights than when the run began"
    )
    file.unlink()
    assert run_dalib("evaluate", tmp_path / "student") == 0
    assert run_dalib("plan", tmp_path / "student" / "recipe.yaml") == 0
