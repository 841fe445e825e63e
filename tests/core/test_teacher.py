"""The teacher is the moving average that the papers define."""

import copy

import pytest
import torch
from torch import nn

from dalib import Engine, Strategy, hookimpl
from dalib.core.teacher import Teacher
from tests.tiny import Supervised, TinyData, tiny_batch, tiny_model


def wander(student, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in student.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator))
            else:
                tensor.add_(1)


@pytest.mark.parametrize("batch_norm", ["train", "eval"])
def test_it_equals_the_average_in_float64(batch_norm):
    student = tiny_model()
    teacher = Teacher(student, 0.9, batch_norm)
    parameters = dict(student.named_parameters())
    expected = {k: v.double() for k, v in teacher.module.state_dict().items()}
    for step in range(15):
        wander(student, step)
        decay = min(1 - 1 / (step + 1), 0.9)
        teacher.update(student, step, torch.zeros(()))
        for key, value in student.state_dict().items():
            if key in parameters or (batch_norm == "eval" and value.is_floating_point()):
                expected[key] = decay * expected[key] + (1 - decay) * value.double()
            elif batch_norm == "eval":
                expected[key] = value.double()
    for key, value in teacher.module.state_dict().items():
        torch.testing.assert_close(value.double(), expected[key], rtol=1e-5, atol=1e-6)


def test_the_first_update_copies_the_student():
    student = tiny_model()
    teacher = Teacher(student, None, None)
    wander(student, 0)
    teacher.update(student, 0, torch.zeros(()))
    assert all(torch.equal(a, b) for a, b in zip(teacher.module.parameters(), student.parameters(), strict=True))


@pytest.mark.parametrize(("batch_norm", "training"), [("train", True), ("eval", False), (None, True)])
def test_batch_norm_runs_in_the_mode_asked_for_and_dropout_never(batch_norm, training):
    module = Teacher(tiny_model(dropout=0.5), None, batch_norm).module
    assert {m.training for m in module.modules() if isinstance(m, nn.BatchNorm2d)} == {training}
    assert not module.dropout.training and not module.training


def test_unless_it_is_asked_otherwise_it_is_dacs_own():
    teacher = Teacher(tiny_model(), None, None)
    assert (teacher.decay, teacher.batch_norm) == (0.99, "train")


def test_it_has_no_gradients_and_no_part_of_the_student():
    student = tiny_model()
    teacher = Teacher(student, None, None)
    assert not any(p.requires_grad for p in teacher.module.parameters())
    assert not {id(p) for p in teacher.module.parameters()} & {id(p) for p in student.parameters()}


class Watch(Strategy):
    """Keeps what the teacher says of the target."""

    batch_norm: str | None = "train"

    @hookimpl
    def setup(self, ctx):
        ctx.teacher(0.9, self.batch_norm)
        self.seen = []

    @hookimpl
    def pre_batch(self, step):
        self.seen.append(step.teacher_logits("target"))


def test_the_engine_updates_it_after_the_student_and_evaluating_it_changes_no_later_step():
    def train(evaluate):
        watch = Watch()
        engine = Engine(tiny_model(dropout=0.3), [watch, Supervised()], device="cpu")
        for index in range(3):
            engine.step(tiny_batch(index))
            if evaluate:
                engine.predict(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), teacher=True)
        return watch.seen

    plain, evaluated = train(False), train(True)
    assert all(torch.equal(a, b) for a, b in zip(plain, evaluated, strict=True))
    assert all(logits.dtype == torch.float32 and not logits.requires_grad for logits in plain)
    first = Engine(tiny_model(), [Watch(), Supervised()], device="cpu")
    first.step(tiny_batch())
    assert all(map(torch.equal, first.teacher.module.parameters(), first.model.parameters()))


def test_the_students_batch_statistics_never_reach_a_teacher_that_has_its_own():
    student = tiny_model()
    teacher = Teacher(student, 0.5, "train")
    before = copy.deepcopy(teacher.module.body[1].running_mean)
    student(torch.rand(2, 3, 8, 8))
    teacher.update(student, 5, torch.zeros(()))
    assert torch.equal(teacher.module.body[1].running_mean, before)


def says(model, number):
    """Let a model give one class everywhere."""
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()[number] = 1.0


class Labelled(TinyData):
    classes = ("a", "b", "c", "d", "e")


def test_what_is_asked_of_the_teacher_is_the_teachers_and_everything_else_the_students():
    engine = Engine(tiny_model(), [Watch(), Supervised()], device="cpu")
    says(engine.model, 1)
    says(engine.teacher.module, 3)
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    asked = ({}, 1), ({"teacher": False}, 1), ({"teacher": True}, 3)
    for options, number in asked:
        assert engine.predict(images, **options).unique().tolist() == [number]
        assert engine.evaluate(Labelled(2), **options).confusion.sum(0).nonzero().flatten().tolist() == [number]
