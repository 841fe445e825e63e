"""What does not fit in a stack is said before the first step, with both names and a way out."""

import warnings

import pytest

from dalib import Engine, Strategy, hookimpl
from dalib.core.plan import make_plan
from dalib.core.stack import Stack
from dalib.errors import StackError
from tests.tiny import Supervised, TinyData, tiny_model


class Writer(Strategy):
    """Declares what the test says; does nothing."""

    reads: tuple[str, ...] = ()
    adds: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    matching: tuple[str, ...] = ()
    crop: tuple[int, int] | None = None

    @property
    def requires(self):
        return frozenset(self.reads)

    @property
    def provides(self):
        return frozenset(self.adds)

    @property
    def writes(self):
        return frozenset(self.changes)

    @property
    def same_size(self):
        return frozenset(self.matching)

    def sizes(self, before):
        return {field.split(".")[0]: self.crop for field in self.changes} if self.crop else {}

    @hookimpl
    def pre_batch(self, step):
        pass


BOTH = {"source": (8, 16), "target": (8, 16)}
MIXED = ("mixed.image", "mixed.label")
dacs = Writer(name="dacs", reads=("source.image", "target.image"), adds=MIXED, matching=("source", "target"))

MISTAKES = [
    (
        [dacs, Writer(name="cutmix", adds=("mixed.image",))],
        BOTH,
        "mixed.image is provided twice: by 'dacs' and by 'cutmix'; drop one.",
    ),
    (
        [Writer(name="masked", reads=("mixed.image",)), dacs, Supervised()],
        BOTH,
        "strategy 'masked' needs mixed.image. 'dacs' provides it later in the list; move 'masked' after 'dacs'.",
    ),
    (
        [Writer(name="jitter", changes=("mixed.weight",)), dacs],
        BOTH,
        "strategy 'jitter' needs mixed.image. 'dacs' provides it later in the list; move 'jitter' after 'dacs'.",
    ),
    (
        [Writer(name="masked", reads=("mixed.image",))],
        {"source": None},
        "strategy 'masked' needs mixed.image. Nothing provides it; the stack has source.image, source.index, "
        "source.label.",
    ),
    (
        [Writer(name="cheat", reads=("target.label",))],
        BOTH,
        "strategy 'cheat' needs target.label. Labels of the target never reach training; use a "
        "teacher's pseudo-labels.",
    ),
    (
        [dacs],
        {"source": (8, 16)},
        "strategy 'dacs' needs target.image. There is no target data; name it under data.target of the recipe (or pass "
        "it to fit).",
    ),
    (
        [dacs],
        {"source": (8, 16), "target": (16, 8)},
        "strategy 'dacs' needs streams of one size; it would get source 8x16, target 16x8 (H x W). Crop them before "
        "it, e.g. {use: augment, streams: [source, target], crop: [H, W]}, or set data.*.size.",
    ),
    (
        [Writer(name="crop", changes=("source.image",), crop=(4, 4)), dacs],
        BOTH,
        "strategy 'dacs' needs streams of one size; it would get source 4x4, target 8x16 (H x W).",
    ),
    (
        [type("Reads", (Supervised,), {"outputs": frozenset({"mixed.logits"}), "requires": frozenset()})()],
        BOTH,
        "strategy 'reads' reads the output mixed.logits, but nothing provides the stream 'mixed'; there are source, "
        "target.",
    ),
]


@pytest.mark.parametrize(("strategies", "streams", "message"), MISTAKES, ids=[m[:40] for *_, m in MISTAKES])
def test_a_stack_that_cannot_work_is_refused(strategies, streams, message):
    with pytest.raises(StackError) as caught:
        make_plan(Stack(strategies), streams)
    assert str(caught.value).startswith(message)


def test_a_field_that_is_read_before_it_is_changed_is_a_warning():
    early = Writer(name="early", reads=("source.image",))
    late = Writer(name="late", changes=("source.image",))
    assert make_plan(Stack([early, late]), BOTH).warnings == (
        "strategy 'early' reads source.image before 'late' changes it, so it sees the unchanged one; move 'early' "
        "after 'late' if that is not meant.",
    )
    assert make_plan(Stack([late, early]), BOTH).warnings == ()


def test_every_stale_read_is_told_and_what_a_strategy_says_of_sizes():
    class Wary(Writer):
        def check_sizes(self, sizes):
            return [f"{name} is {height}x{width}" for name, (height, width) in sizes.items()]

    class Loss(Supervised):
        def check_sizes(self, sizes):
            return [f"loss: {sorted(sizes)}"]

    early = [Writer(name=name, reads=(f"{name}.image",)) for name in ("source", "target")]
    late = Writer(name="late", changes=("source.image", "target.image"))
    told = make_plan(
        Stack([Loss(), *early, late, Wary(name="wary", changes=("source.image",), crop=(4, 4))]),
        {**BOTH, "other": None},
    ).warnings
    assert [warning.split(" before ")[0] for warning in told] == [
        "strategy 'source' reads source.image",
        "strategy 'target' reads target.image",
        "strategy 'source' reads source.image",
        "source is 8x16",
        "target is 8x16",
        "loss: ['source', 'target']",
    ]


def refused(reads, fields=None):
    """Return what is said of a strategy that requires ``reads``, of streams whose fields may be known."""
    with pytest.raises(StackError) as caught:
        make_plan(Stack([Writer(name="reads", reads=(reads,))]), {**BOTH, "few": (8, 16)}, fields=fields)
    return str(caught.value)


def test_the_data_give_images_labels_and_positions_and_the_target_no_labels():
    reads = ("source.index", "target.index", "source.label", "few.image", "few.label", "source.depth", "source.extra")
    make_plan(Stack([Writer(name="reads", reads=reads)]), {**BOTH, "few": (8, 16)})
    assert "Labels of the target never reach training" in refused("target.label")
    assert "Labels of the target never reach training" in refused("target.label", {"target": ("image", "label")})


def test_of_data_that_were_seen_a_plan_knows_labels_and_further_maps():
    seen = {"source": ("image", "label", "depth"), "few": ("image",)}
    reads = ("source.depth", "source.extra", "few.extra", "target.depth")
    make_plan(Stack([Writer(name="reads", reads=reads)]), {**BOTH, "few": (8, 16)}, fields=seen)
    assert refused("source.flow", seen) == (
        "strategy 'reads' needs source.flow. Nothing provides it; the stack has few.image, source.depth, source.image, "
        "source.label, target.image, target.index."
    )
    assert refused("few.label", seen).startswith(
        "strategy 'reads' needs few.label. No image of the few data that was looked at has a labelled pixel."
    )


def test_a_field_that_is_read_and_written_has_to_be_there():
    with pytest.raises(StackError, match=r"strategy 'both' needs source.weight. Nothing provides it"):
        make_plan(Stack([Writer(name="both", reads=("source.weight",), changes=("source.weight",))]), BOTH)
    make_plan(Stack([Writer(name="writes", changes=("source.weight",))]), BOTH)


def test_a_map_that_is_read_before_all_maps_change_is_a_warning():
    early, late = Writer(name="early", reads=("source.depth",)), Writer(name="late", changes=("source.extra",))
    assert "'early' reads source.depth before 'late'" in make_plan(Stack([early, late]), BOTH).warnings[0]


def test_a_loss_reads_what_the_whole_stack_left_wherever_it_stands():
    assert make_plan(Stack([Supervised(), Writer(name="late", changes=("source.image",))]), BOTH).warnings == ()


def test_a_plan_follows_sizes_hooks_and_groups():
    crop = Writer(name="crop", changes=("source.image", "target.image"), crop=(4, 4))
    plan = make_plan(Stack([crop, dacs, Supervised()]), {"source": (9, 9), "target": None})
    assert [row.hooks for row in plan.rows] == [("pre_batch",), ("pre_batch",), ("loss",)]
    assert [row.group for row in plan.rows] == [None, None, 0]
    assert plan.rows[1].sizes == {"source": (4, 4), "target": (4, 4), "mixed": (4, 4)}


def test_the_engine_plans_for_the_streams_that_really_come_and_warns_once():
    stack = [
        Writer(name="early", reads=("source.image",)),
        Writer(name="late", changes=("source.image",)),
        Supervised(),
    ]
    engine = Engine(tiny_model(), stack, device="cpu")
    with pytest.warns(UserWarning, match="'early' reads source.image before 'late' changes it"):
        engine.fit(TinyData(), steps=1, batch_size=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.fit(TinyData(), steps=2, batch_size=2)


def test_the_engine_refuses_sizes_that_only_the_data_show():
    engine = Engine(tiny_model(), [dacs, Supervised()], device="cpu")
    with pytest.raises(StackError, match="it would get source 12x16, target 8x8"):
        engine.fit(TinyData(), TinyData(size=(8, 8)), steps=1, batch_size=2)
