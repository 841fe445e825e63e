"""What the ranks bring to the reductions of a step has to be the same on all of them."""

import copy

import pytest
import torch
from torch import nn

from dalib import Engine, hookimpl, ranks
from dalib.errors import StackError
from tests.distributed.launch import on_ranks
from tests.tiny import Supervised, tiny_batch, tiny_model

CASES = {
    "term": "has the term odd/extra, which rank 1 has not",
    "names": "has the term odd/x, which rank 1 has not",
    "log": "has the logged scalar odd/extra, which rank 1 has not",
    "constant": "has a gradient of odd/0's weight, which rank 1 has not",
    "module": "has a gradient of odd/0's weight, which rank 1 has not",
    "order": "the ranks give the same terms in different orders",
    "nothing": "",
}


class Odd(Supervised):
    """Does something else on each of the ranks 0 and 1."""

    def __init__(self, case):
        super().__init__(name="odd")
        self.case = case

    @hookimpl
    def setup(self, ctx):
        self.modules = [ctx.module(str(number), lambda: nn.Conv2d(5, 1, 1)) for number in (0, 1)]

    @hookimpl
    def loss(self, step):
        case, first, logits = self.case, ranks.rank() == 0, step.logits("source")
        means = [module(logits).mean() for module in self.modules]
        terms = {"loss": step.segmentation_loss("source")}
        if case == "term" and first:
            terms["extra"] = logits.mean()
        if case == "log" and first:
            step.log("extra", logits.mean().detach())
        if case == "names":
            terms["x" if first else "y"] = means[0]
        if case == "constant":
            terms["x"] = means[0] if first else torch.zeros(())
        if case == "module":
            terms["x"] = means[ranks.rank()]
        if case == "order":
            terms |= dict([("x", means[0]), ("y", means[1])][:: 1 if first else -1])
        return terms


def told():
    """Return what each case says in its step, and whether it changed a weight."""
    found = {}
    for case in CASES:
        engine = Engine(tiny_model(), [Odd(case)], device="cpu")
        before, said = copy.deepcopy(engine.model.state_dict()), ""
        try:
            engine.step(tiny_batch(ranks.rank()))
        except StackError as error:
            said = str(error)
        after = engine.model.state_dict()
        found[case] = (said, any(not torch.equal(before[name], after[name]) for name in before))
    return found


@pytest.mark.distributed
def test_what_differs_between_the_ranks_is_told_on_all_before_anything_is_mixed_up(tmp_path):
    first, second = on_ranks(2, told, tmp_path)
    assert first == second
    for case, message in CASES.items():
        said, changed = first[case]
        assert message in said and bool(said) == bool(message) and changed == (not message), case
