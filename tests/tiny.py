"""Models, data and strategies that are as small as a behaviour allows."""

import torch
from torch import Tensor, nn

from dalib import Batch, Strategy, Stream, hookimpl, wrap_model


class TinyModel(nn.Module):
    """Two convolutions with BatchNorm, dropout and an auxiliary head; (B, 3, H, W) -> logits of the same size."""

    def __init__(self, num_classes: int = 5, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("std", torch.ones(3))
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv2d(8, num_classes, 1)
        self.auxiliary = nn.Conv2d(8, num_classes, 1)

    def forward(self, x: Tensor, outputs: bool = False) -> Tensor | dict[str, Tensor]:
        features = self.dropout(self.body(x))
        logits = self.head(features)
        if not outputs:
            return logits
        auxiliary = {"aux.1": self.auxiliary(features)} if self.training else {}
        return {"logits": logits, "features": features, **auxiliary}


def tiny_model(seed: int = 0, **options: object) -> TinyModel:
    """Return the model with the weights of a seed."""
    torch.manual_seed(seed)
    return TinyModel(**options)  # type: ignore[arg-type]


class TinyNetwork(TinyModel):
    """The same without the outer model's interface: (B, 3, H, W) -> all outputs."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return super().forward(x, outputs=True)


def tappable_model(seed: int = 0, num_classes: int = 5) -> nn.Module:
    """Return the model in dalib's wrapper, so that its layers can be tapped."""
    torch.manual_seed(seed)
    return wrap_model(TinyNetwork(num_classes), num_classes)


def tiny_batch(seed: int = 0, size: tuple[int, int] = (12, 16), batch: int = 2, num_classes: int = 5) -> Batch:
    """Return a source with labels, some ignored, and a target without."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, num_classes, (batch, *size), generator=generator)
    label[:, 0] = 255
    return Batch(
        {
            "source": Stream(torch.rand(batch, 3, *size, generator=generator), label),
            "target": Stream(torch.rand(batch, 3, *size, generator=generator)),
        }
    )


class TinyData:
    """Images of noise whose labels follow their brightness."""

    def __init__(self, length: int = 10, size: tuple[int, int] = (12, 16), seed: int = 0, num_classes: int = 5) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.randint(0, 256, (length, 3, *size), generator=generator, dtype=torch.uint8)
        self.labels = (self.images[:, 0].int() * num_classes // 256).to(torch.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]


class Supervised(Strategy):
    """The segmentation loss on the source."""

    requires = frozenset({"source.image", "source.label"})
    outputs = frozenset({"source.logits"})

    @hookimpl
    def loss(self, step):
        return {"loss": step.segmentation_loss("source")}


class Entropy(Strategy):
    """The entropy of the student on the target."""

    requires = frozenset({"target.image"})
    outputs = frozenset({"target.logits"})

    @hookimpl
    def loss(self, step):
        log_p = step.logits("target").float().log_softmax(1)
        return {"entropy": -(log_p.exp() * log_p).sum(1).mean()}


class Counter(Strategy):
    """A loss on the source with state of its own: it grows with the steps."""

    @hookimpl
    def setup(self, ctx):
        self.count = 0

    @hookimpl
    def loss(self, step):
        return {"x": step.logits("source").pow(2).mean() * self.count}

    @hookimpl
    def post_step(self, step):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]
