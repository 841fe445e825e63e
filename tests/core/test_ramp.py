"""Numbers that change over the steps: weights and the teacher's decay."""

import copy

import pytest
import torch

from dalib import Engine, StackError, Strategy, create_strategy, hookimpl
from dalib.core.ramp import value_at
from dalib.errors import RecipeError
from tests.equal import assert_same
from tests.tiny import Supervised, tiny_batch, tiny_model

RAMP = {"from": 0.0, "to": 0.1, "steps": 4, "start": 2}


@pytest.mark.parametrize(
    ("step", "value"), [(0, 0.0), (2, 0.0), (3, 0.025), (4, 0.05), (6, 0.1), (7, 0.1), (10**9, 0.1)]
)
def test_a_ramp_is_linear_between_its_ends_and_constant_outside(step, value):
    assert value_at(RAMP, step) == pytest.approx(value, rel=1e-12)
    assert value_at({"from": 0.3, "to": 0.7, "steps": 3}, 3) == 0.7
    assert value_at(0.4, step) == 0.4


def test_a_weight_is_a_ramp_over_the_optimiser_steps():
    engine, plain = (
        Engine(tiny_model(), [Supervised(weight=weight)], device="cpu") for weight in (RAMP | {"start": 0}, 1.0)
    )
    for index in range(6):
        plain.stack.strategies[0].weight = 0.1 * min(index, 4) / 4
        for each in (engine, plain):
            each.step(tiny_batch(index))
        assert_same(engine.model.state_dict(), plain.model.state_dict(), 1e-7)


def test_at_a_weight_of_zero_the_loss_is_not_called_so_batch_norm_stays():
    engine = Engine(tiny_model(), [Supervised(weight={"from": 0.0, "to": 1.0, "steps": 2, "start": 1})], device="cpu")
    before = copy.deepcopy(engine.model.state_dict())
    for _ in range(2):
        assert engine.step(tiny_batch()) == {}
    assert_same(engine.model.state_dict(), before)
    assert "supervised/loss" in engine.step(tiny_batch())


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (RAMP | {"steps": 0}, r"supervised\.weight\.steps: expected at least 1, got 0"),
        ({"from": 0, "to": 1}, r"supervised\.weight\.steps: this option is required"),
        (RAMP | {"form": 0}, r"supervised\.weight\.form: unknown option. Did you mean 'from'"),
        (RAMP | {"to": -1}, r"supervised\.weight\.to: expected at least 0"),
    ],
)
def test_a_wrong_ramp_is_named(weight, message):
    with pytest.raises(RecipeError, match=message):
        create_strategy("supervised", weight=weight)


class Teaches(Strategy):
    @hookimpl
    def setup(self, ctx):
        ctx.teacher(**self.options)

    def __post_init__(self):
        self.options = {}


def teachers_over_steps(steps, **options):
    teaches = Teaches()
    teaches.options = options
    engine = Engine(tiny_model(), [Supervised(), teaches], device="cpu")
    students = [copy.deepcopy(engine.model.head.weight.detach())]
    teachers = [copy.deepcopy(engine.teacher.module.head.weight)]
    for index in range(steps):
        engine.step(tiny_batch(index))
        students.append(engine.model.head.weight.detach().clone())
        teachers.append(engine.teacher.module.head.weight.clone())
    return students, teachers


def test_until_its_start_the_teacher_equals_the_student_and_then_averages_as_from_step_0():
    students, teachers = teachers_over_steps(6, start=3, decay=0.4)
    for step in (1, 2, 3, 4):  # at the start itself the first average takes the student whole
        assert torch.equal(students[step], teachers[step])
    torch.testing.assert_close(teachers[5], 0.4 * teachers[4] + 0.6 * students[5])
    torch.testing.assert_close(teachers[6], 0.4 * teachers[5] + 0.6 * students[6])


def test_a_decay_of_1_leaves_the_teacher_as_it_was_built():
    _, teachers = teachers_over_steps(4, decay=1.0)
    assert all(torch.equal(teachers[0], teacher) for teacher in teachers)


def test_a_decay_may_be_a_ramp():
    students, teachers = teachers_over_steps(4, decay={"from": 0.0, "to": 0.6, "steps": 3})
    for step, decay in ((1, 0.0), (2, 0.2), (3, 0.4), (4, 0.6)):
        torch.testing.assert_close(teachers[step], decay * teachers[step - 1] + (1 - decay) * students[step])


def test_a_decay_beyond_1_is_refused():
    with pytest.raises(StackError, match=r"'teaches': expected a teacher's decay in 0\.\.1"):
        teachers_over_steps(1, decay={"from": 0.5, "to": 1.5, "steps": 2})
