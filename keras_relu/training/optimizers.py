"""Small optimizers that follow PyTorch's update rules, with the learning rate given at every call.

```python
optimizer = get_optimizer("sgd", momentum=0.9, weight_decay=5e-4)
optimizer.build(model.trainable_variables)              # before tf.function and before a checkpoint is restored
...
gradients, norm = compute_gradients(tape, loss, variables, clip_norm=5.0)
optimizer.apply(zip(gradients, variables), schedule(step))
```

Keras differs in two places that matter here: it folds the learning rate into the momentum (so a changing rate acts
later) and adds Adam's epsilon before the bias correction (visible when gradients are around 1e-5).

The updates run through TensorFlow's fused kernels, one pass over each variable. They compute 1 - beta in float32, so
Adam agrees with PyTorch to a relative 1e-5 of a step.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf

from keras_relu.errors import UserError, unknown_key

__all__ = [
    "OPTIMIZERS",
    "SGD",
    "Adam",
    "AdamW",
    "Optimizer",
    "clip_by_global_norm",
    "compute_gradients",
    "for_each_replica",
    "get_optimizer",
    "reduce_gradients",
]

Pair = tuple[tf.Tensor, tf.Variable]


def for_each_replica(update: Any, pairs: Sequence[tuple[tf.Variable, tuple]], *, when: tf.Tensor | None = None) -> None:
    """Run `update(variable, *args)` on every replica's copy of each variable; callable from any distribution context.

    Args:
        pairs: (variable, args); distributed values among the args are resolved to the copy of the same replica.
        when: a bool scalar; nothing is changed where it is false.
    """

    def across(strategy: Any, pairs: Any, when: Any) -> None:
        def run() -> tf.Operation:
            for variable, args in pairs:
                strategy.extended.update(variable, update, args=args, group=False)
            return tf.no_op()

        if when is None:
            run()
        else:
            tf.cond(strategy.experimental_local_results(when)[0], run, tf.no_op)

    context = tf.distribute.get_replica_context()
    if context is None:
        across(tf.distribute.get_strategy(), pairs, when)
    else:
        context.merge_call(across, args=(pairs, when))


class Optimizer:
    """Base: slot variables by name, coupled weight decay, and the walk over variables and replicas.

    A subclass names its slots and gives `_update(variable, gradient, lr, *slots)`, which changes them in place.

    Args:
        weight_decay: L2 coefficient, added to the gradient (coupled) as PyTorch's SGD and Adam do.
        decay_vectors: whether variables of rank 0 and 1 (batch norm scales, biases, per-channel coefficients) decay
            too; PyTorch's default is yes.
    """

    slot_names: tuple[str, ...] = ()

    def __init__(self, *, weight_decay: float = 0.0, decay_vectors: bool = True) -> None:
        if not weight_decay >= 0:
            raise UserError(f"weight_decay must be 0 or more, received {weight_decay}.")
        if weight_decay == 0 and not decay_vectors:
            raise UserError("decay_vectors=False has no effect without weight_decay.")
        self.weight_decay = weight_decay
        self.decay_vectors = decay_vectors
        self._slots: dict[Any, tuple[tf.Variable, ...]] = {}
        self._extra: list[tf.Variable] = []

    def build(self, variables: Iterable[tf.Variable]) -> None:
        """Create the slots of `variables`; call it outside any graph, inside the strategy's scope if there is one."""
        for variable in variables:
            if variable.ref() not in self._slots:
                self._slots[variable.ref()] = tuple(
                    tf.Variable(
                        tf.zeros(variable.shape, variable.dtype), trainable=False, name=f"{_stem(variable)}_{slot}"
                    )
                    for slot in self.slot_names
                )

    @property
    def variables(self) -> list[tf.Variable]:
        """Everything a checkpoint needs, in the order of `build`."""
        return self._extra + [slot for slots in self._slots.values() for slot in slots]

    def apply(self, grads_and_vars: Iterable[Pair], lr: tf.Tensor | float, *, when: tf.Tensor | None = None) -> None:
        """One update; gradients must already be summed over the replicas. A pair whose gradient is None is left alone.

        Raises:
            UserError: a variable was not given to `build`.
        """
        pairs = [(v, (g, lr)) for g, v in ((tf.convert_to_tensor(g), v) for g, v in grads_and_vars if g is not None)]
        for variable, _ in pairs:
            if variable.ref() not in self._slots:
                raise UserError(
                    f"The optimizer was not built for the variable {variable.name!r}; pass it to build() first."
                )
        self._advance(when)
        for_each_replica(self._decayed_update, [(v, (*args, *self._slots[v.ref()])) for v, args in pairs], when=when)

    def _advance(self, when: tf.Tensor | None) -> None:
        """Count the update, where the rule needs a count."""
        del when

    def _decayed_update(self, variable: tf.Variable, gradient: tf.Tensor, lr: Any, *slots: tf.Variable) -> None:
        lr = tf.cast(lr, variable.dtype)
        gradient = tf.cast(gradient, variable.dtype)
        self._update(variable, self._decay(variable, gradient, lr), lr, *slots)

    def _decay(self, variable: tf.Variable, gradient: tf.Tensor, lr: tf.Tensor) -> tf.Tensor:
        return gradient + self.weight_decay * variable if self._decays(variable) else gradient

    def _decays(self, variable: tf.Variable) -> bool:
        return self.weight_decay > 0 and (self.decay_vectors or variable.shape.rank > 1)

    def _update(self, variable: tf.Variable, gradient: tf.Tensor, lr: tf.Tensor, *slots: tf.Variable) -> None:
        raise NotImplementedError


class SGD(Optimizer):
    """v <- mu v + g, w <- w - lr v; with nesterov w <- w - lr (g + mu v) (Sutskever et al., 2013, in PyTorch's form).

    Raises:
        UserError: momentum outside [0, 1), or nesterov without momentum.
    """

    def __init__(self, *, momentum: float = 0.0, nesterov: bool = False, **options: Any) -> None:
        super().__init__(**options)
        if not 0 <= momentum < 1:
            raise UserError(f"momentum must be in [0, 1), received {momentum}.")
        if nesterov and momentum == 0:
            raise UserError("nesterov=True has no effect without momentum.")
        self.momentum = momentum
        self.nesterov = nesterov
        self.slot_names = ("momentum",) if momentum else ()

    def _update(self, variable: tf.Variable, gradient: tf.Tensor, lr: tf.Tensor, *slots: tf.Variable) -> None:
        if not slots:
            tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=lr, delta=gradient, use_locking=True)
            return
        tf.raw_ops.ResourceApplyMomentum(
            var=variable.handle,
            accum=slots[0].handle,
            lr=lr,
            grad=gradient,
            momentum=tf.cast(self.momentum, variable.dtype),
            use_nesterov=self.nesterov,
            use_locking=True,
        )


class Adam(Optimizer):
    """m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2, w <- w - lr m^ / (sqrt(v^) + epsilon); m^, v^ bias-corrected.

    Kingma and Ba, 2015, Algorithm 1: epsilon is added after the bias correction, as in PyTorch.

    Raises:
        UserError: a beta outside [0, 1) or an epsilon that is not positive.
    """

    slot_names = ("m", "v")

    def __init__(self, *, betas: Sequence[float] = (0.9, 0.999), epsilon: float = 1e-8, **options: Any) -> None:
        super().__init__(**options)
        if len(betas) != 2 or not all(0 <= b < 1 for b in betas):
            raise UserError(f"betas must be two numbers in [0, 1), received {list(betas)}.")
        if not epsilon > 0:
            raise UserError(f"epsilon must be positive, received {epsilon}.")
        self.betas = tuple(betas)
        self.epsilon = epsilon

    def build(self, variables: Iterable[tf.Variable]) -> None:
        super().build(variables)
        if not self._extra:
            self._extra.append(tf.Variable(0, dtype=tf.int64, trainable=False, name="adam_updates"))

    def _advance(self, when: tf.Tensor | None) -> None:
        for_each_replica(lambda count: count.assign_add(1), [(self._extra[0], ())], when=when)

    def _decayed_update(self, variable: tf.Variable, gradient: tf.Tensor, lr: Any, *slots: tf.Variable) -> None:
        # In float64, since 1 - b2^t loses half its digits in float32 while t is small.
        updates = tf.cast(self._extra[0].read_value(), tf.float64)
        first, second = (1.0 - tf.pow(tf.constant(b, tf.float64), updates) for b in self.betas)
        lr = tf.cast(lr, variable.dtype)
        gradient = self._decay(variable, tf.cast(gradient, variable.dtype), lr)
        # The kernel steps by lr m / (sqrt(v) + epsilon); both corrections are folded into its lr and epsilon.
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=slots[0].handle,
            v=slots[1].handle,
            beta1_power=tf.zeros([], variable.dtype),
            beta2_power=tf.zeros([], variable.dtype),
            lr=lr * tf.cast(tf.sqrt(second) / first, variable.dtype),
            beta1=tf.cast(self.betas[0], variable.dtype),
            beta2=tf.cast(self.betas[1], variable.dtype),
            epsilon=tf.cast(self.epsilon * tf.sqrt(second), variable.dtype),
            grad=gradient,
            use_locking=True,
        )


class AdamW(Adam):
    """Adam with decoupled decay: w <- w - lr weight_decay w before the step (Loshchilov and Hutter, 2019)."""

    def __init__(self, *, weight_decay: float = 1e-2, **options: Any) -> None:
        super().__init__(weight_decay=weight_decay, **options)

    def _decay(self, variable: tf.Variable, gradient: tf.Tensor, lr: tf.Tensor) -> tf.Tensor:
        if self._decays(variable):
            variable.assign_sub(lr * self.weight_decay * variable)
        return gradient


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}


def get_optimizer(name: str, **options: Any) -> Optimizer:
    """The optimizer called `name` (a key of `OPTIMIZERS`) with its options.

    Raises:
        UserError: unknown name, an option this optimizer does not have, a value out of range.
    """
    if name not in OPTIMIZERS:
        raise unknown_key("optimizer", name, OPTIMIZERS)
    allowed = _option_names(OPTIMIZERS[name])
    for key in options:
        if key not in allowed:
            raise UserError(
                f"The option {key!r} has no effect with the optimizer {name!r}; its options: {', '.join(allowed)}."
            )
    return OPTIMIZERS[name](**options)


def _option_names(kind: type[Optimizer]) -> list[str]:
    """Keyword arguments of a class and of the bases it hands **options to."""
    names: set[str] = set()
    for base in (c for c in kind.__mro__[:-1] if "__init__" in vars(c)):
        names.update(
            key for key, p in inspect.signature(vars(base)["__init__"]).parameters.items() if p.kind is p.KEYWORD_ONLY
        )
    return sorted(names)


def reduce_gradients(gradients: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
    """Gradients summed over the replicas; unchanged with one replica or outside a replica context."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return list(gradients)
    present = [i for i, g in enumerate(gradients) if g is not None]
    summed = context.all_reduce(tf.distribute.ReduceOp.SUM, [gradients[i] for i in present])
    result: list[tf.Tensor | None] = [None] * len(gradients)
    for i, gradient in zip(present, summed, strict=True):
        result[i] = gradient
    return result


def clip_by_global_norm(
    gradients: Sequence[tf.Tensor | None], max_norm: float
) -> tuple[list[tf.Tensor | None], tf.Tensor]:
    """Gradients scaled by min(1, max_norm / (norm + 1e-6)) (PyTorch's rule), and the norm before clipping.

    Raises:
        UserError: max_norm is not positive.
    """
    if not max_norm > 0:
        raise UserError(f"The norm to clip gradients to must be positive, received {max_norm}.")
    norm = tf.linalg.global_norm([g for g in gradients if g is not None])
    factor = tf.minimum(1.0, max_norm / (norm + 1e-6))
    return [None if g is None else g * tf.cast(factor, g.dtype) for g in gradients], norm


def compute_gradients(
    tape: tf.GradientTape,
    loss: tf.Tensor,
    variables: Sequence[tf.Variable],
    *,
    clip_norm: float | None = None,
    scale: tf.Tensor | None = None,
) -> tuple[list[tf.Tensor | None], tf.Tensor]:
    """Gradients of a loss that is scaled by the global batch: summed over replicas, then unscaled, then clipped.

    Args:
        scale: a loss scale the loss was multiplied with (mixed precision); divided out again.

    Returns:
        (gradients, global norm before clipping).
    """
    gradients = reduce_gradients(tape.gradient(loss, variables))
    if scale is not None:
        gradients = [None if g is None else g / tf.cast(scale, g.dtype) for g in gradients]
    if clip_norm is not None:
        return clip_by_global_norm(gradients, clip_norm)
    return gradients, tf.linalg.global_norm([g for g in gradients if g is not None])


def _stem(variable: tf.Variable) -> str:
    return variable.name.split(":")[0].replace("/", "_")
