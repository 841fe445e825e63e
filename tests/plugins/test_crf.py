"""The CRF as a strategy: around any network's predictions, and out of training's way."""

import torch

from dalib import Engine
from dalib_plugins.crf import Crf
from dalib_plugins.dense_crf import DenseCRF
from tests.tiny import Supervised, tiny_batch, tiny_model


def test_refines_what_the_engine_predicts() -> None:
    engine = Engine(
        tiny_model(), [Supervised(), Crf(iterations=2, smoothness_position=1.0, cell=4, reach=2)], device="cpu"
    )
    images = torch.rand(2, 3, 21, 30, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = engine.model.eval()(images)
        found = engine.predictor(engine.model)(images)
    expected = DenseCRF(iterations=2, smoothness_position=1.0, cell=4, reach=2)(logits, images)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, logits.log_softmax(1), atol=0.1)


def test_training_does_not_see_it() -> None:
    terms = [
        Engine(tiny_model(), stack, device="cpu").step(tiny_batch())
        for stack in ([Supervised()], [Supervised(), Crf()])
    ]
    assert terms[0].keys() == terms[1].keys()
    torch.testing.assert_close(terms[0]["supervised/loss"], terms[1]["supervised/loss"], rtol=0, atol=0)
