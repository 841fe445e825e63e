"""The networks of an engine, the student, its teacher and strategies' modules, and the optimisers that train them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from dalib import ranks
from dalib.core.arguments import RATES
from dalib.core.modules import MakeOptimizer, OwnedModule, made_by
from dalib.core.optim import fuse, load_state, parameters_of, sgd
from dalib.core.strategy import Strategy
from dalib.core.teacher import Teacher
from dalib.errors import StackError
from dalib.models.freezing import at_rest
from dalib.models.wrapper import network_of


class Networks:
    """Student, teacher and strategies' modules, with their optimisers.

    Args:
        modules: by strategy and name, ``"adversarial/logits"``.
        make_optimizer: makes the student's optimiser; default: SGD with a learning rate of 2.5e-4.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher | None,
        modules: Mapping[str, OwnedModule],
        make_optimizer: MakeOptimizer | None,
    ) -> None:
        self.student = student
        self.teacher = teacher
        self.modules = modules
        self.optimizer = made_by(make_optimizer or sgd(lr=2.5e-4), self._parameters(), "Engine")
        self.optimizers: dict[str | None, Optimizer] = {None: self.optimizer} | {
            name: module.optimizer for name, module in modules.items() if module.optimizer
        }  # by the name of a strategy's module; the student's under None
        for each in self.optimizers.values():
            fuse(each)
            for group in each.param_groups:
                group.setdefault("initial_lr", group["lr"])
        self._rates = self._present_rates()
        for network in self.all():
            ranks.copy_from_first(network.state_dict().values())
        self._alike = ranks.Alike()
        self._frozen = [parameter for parameter in student.parameters() if not parameter.requires_grad]

    def all(self) -> list[nn.Module]:
        """Return student, teacher, strategies' trained modules and their averaged copies."""
        trained = [module for module in self.modules.values() if module.trains]
        averaged = [module.averaged for module in trained if module.averaged is not None]
        teacher = [self.teacher.module] if self.teacher else []
        return [self.student, *teacher, *(module.module for module in trained), *averaged]

    def trained_with_student(self) -> list[nn.Parameter]:
        """Return all parameters of the student, and those of strategies' modules that its optimiser trains."""
        return [*self.student.parameters(), *self._shared_parameters()]

    def gradients(self) -> dict[str | None, list[Tensor]]:
        """Return this step's gradients by the name of a strategy's module; the student's under None."""
        received = {
            name: [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            for name, optimizer in self.optimizers.items()
        }
        return {name: gradients for name, gradients in received.items() if gradients}

    def check_alike(self, brought: Sequence[str]) -> None:
        """Check that all ranks bring the same to the reductions of a step; they would mix up what is not the same.

        Args:
            brought: beside the gradients, each with its name.

        Raises:
            StackError: some ranks have a gradient, or one of ``brought``, which others have not.
        """
        if ranks.world() == 1:
            return
        names = {p: f"a gradient of {name}" for name, p in self._named_parameters() if p.grad is not None}
        own = [*brought, *names.values()]
        if self._alike("\n".join(own).encode()):
            return
        of_ranks = ranks.gathered_objects(own)
        for rank, its in enumerate(of_ranks):
            for lacking, others in enumerate(of_ranks):
                if missing := [each for each in its if each not in others]:
                    raise StackError(
                        f"rank {rank} has {missing[0]}, which rank {lacking} has not. All ranks have to give the same "
                        "terms, in one order, to the same parameters: where a strategy finds nothing to train on, let "
                        "it return a term that is 0 and still in the graph, as step.mean does, or values.sum() * 0."
                    )
        raise StackError("the ranks give the same terms in different orders; give them in one order.")

    def _named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield all parameters that may have a gradient, with names for messages."""
        yield from ((f"the model's {name}", p) for name, p in network_of(self.student).named_parameters())
        for module in self.modules.values():
            if module.trains:
                yield from ((f"{module.name}'s {name}", p) for name, p in module.module.named_parameters())

    def reduce_gradients(self) -> None:
        """Replace gradients and BatchNorm's running statistics by their means over the ranks; nothing to do for one.

        It is one reduction per step, after the last backward pass: critics, groups of backward passes and micro-batches
        need none of their own. The statistics of the ranks' batches differ, and so would those that are saved.
        """
        of_all = {parameter: None for network in self.all() for parameter in network.parameters()}
        gradients = [parameter.grad for parameter in of_all if parameter.grad is not None]
        norms = [m for n in self.all() for m in n.modules() if isinstance(m, _NormBase) and m.training]
        statistics = [each for norm in norms for each in (norm.running_mean, norm.running_var) if each is not None]
        ranks.average(gradients + statistics)

    def gradient_versions(self) -> list[int | None]:
        """Return what a backward changes: which parameters have a gradient, and how often each was added to."""
        optimizers = self.optimizers.values()
        parameters = (p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"])
        return [None if p.grad is None else p.grad._version for p in parameters]

    def begin(self, factor: float) -> None:
        """Make ready for a step: training mode, no gradients, and learning rates times ``factor``.

        Raises:
            StackError: somebody else has set a learning rate, or unfrozen a parameter that no optimiser has.
        """
        self._train_mode()
        self.student.zero_grad(set_to_none=True)  # includes parameters without an optimiser, which clip reads
        if self._present_rates() != self._rates:
            raise StackError(
                f"the learning rates were {self._rates} and have been set to {self._present_rates()}. {RATES}"
            )
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * group.get("lr_scale", 1.0) * factor
        self._rates = self._present_rates()

    @contextmanager
    def training_critics(self, strategy: Strategy) -> Iterator[None]:
        """Let this strategy's critics learn, and nothing else."""
        critics = [m for m in self.modules.values() if m.trains == "critic_loss" and m.owner == strategy.name]
        others = (module.module for module in self.modules.values() if module.trains == "loss")
        learning = [p for module in (self.student, *others) for p in module.parameters() if p.requires_grad]
        for critic in critics:
            critic.learn(True)
        for parameter in learning:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for critic in critics:
                critic.learn(False)
            for parameter in learning:
                parameter.requires_grad_(True)

    @contextmanager
    def refusing_forwards(self, hook: str) -> Iterator[None]:
        """Refuse forwards of networks and trained modules, which would move BatchNorm's running statistics."""

        def refuse(*forward: Any) -> None:
            raise StackError(f"a forward in {hook} would move BatchNorm's running statistics; make it in `loss`.")

        handles = [network.register_forward_pre_hook(refuse) for network in self.all()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def state_dict(self) -> dict[str, Any]:
        """Return the weights of all networks and the state of all optimisers."""
        return {
            "model": network_of(self.student).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "teacher": network_of(self.teacher.module).state_dict() if self.teacher else None,
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        network_of(self.student).load_state_dict(state["model"])
        load_state(self.optimizer, state["optimizer"])
        if self.teacher:
            network_of(self.teacher.module).load_state_dict(state["teacher"])
        for name, module in self.modules.items():
            module.load_weights(state["modules"][name])
            if module.optimizer:
                load_state(module.optimizer, state["modules"][name]["optimizer"])
        self._rates = self._present_rates()

    def _train_mode(self) -> None:
        """Set the student to training, but for what is frozen: in eval mode, and without a gradient."""
        if any(parameter.requires_grad for parameter in self._frozen):
            raise StackError(
                "a parameter that was frozen when the engine was made requires a gradient now, and the optimiser does "
                "not have it; unfreeze before the engine is made, or make another one."
            )
        resting = list(at_rest(self.student))
        self.student.train()
        for module in resting:
            module.eval()

    def _present_rates(self) -> list[float]:
        return [group["lr"] for optimizer in self.optimizers.values() for group in optimizer.param_groups]

    def _shared_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of strategies' modules that the student's optimiser trains."""
        shared = (m for m in self.modules.values() if m.trains == "loss" and not m.optimizer)
        return [parameter for module in shared for parameter in module.parameters]

    def _parameters(self) -> Any:
        """Return what the student's optimiser takes."""
        own, shared = parameters_of(network_of(self.student)), self._shared_parameters()
        if not shared:
            return own
        entries = list(own)
        return [*(entries if isinstance(entries[0], dict) else [{"params": entries}]), {"params": shared}]
