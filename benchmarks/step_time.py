"""What does a gated activation cost in training? A ResNet-20 training step with plain ReLU and with every gated variant.

Each variant lives in a process of its own and makes a few steps per round, in turns, so that other load on the machine
meets all alike and peak memory is measured per variant. Ratios are medians over rounds, against plain ReLU of the same
round. A gated variant is measured twice: as the search trains it, with the score gradient in every
`--score-interval`-th step ("identity"), and with it in every step ("identity, scores every step"). The PyTorch variants
are plain ReLU and the gated quadratic written as the original code does it; they need the extra `torch`.

    python benchmarks/step_time.py [--rounds 12] [--steps 3] [--batch 128] [--no-torch] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

GATED = ["identity", "line", "quadratic", "moment_quadratic"]
BARS = {"identity": 1.25, "line": 1.25, "quadratic": 1.5, "moment_quadratic": 1.5}
MEMORY_BAR = 1.3
TORCH_BAR = 1.5
# Random weights and labels: the step must cost what a step costs, and go nowhere.
RATE, MOMENTUM = 1e-9, 0.9


class TensorFlowVariant:
    """ResNet-20 with plain ReLU (`replacement` None) or half of its ReLUs replaced."""

    def __init__(self, replacement, batch):
        import tensorflow as tf

        from keras_relu import models
        from keras_relu.replacement import gated_layers, replace_relus

        tf.random.set_seed(0)
        self.model = models.build("resnet20")
        if replacement is not None:
            # The exact fit compounds along the residual path of a network that was never trained.
            options = {"shrink": 0.1} if replacement.startswith("moment") else {}
            self.model = replace_relus(self.model, replacement={"name": replacement, **options})
        self.layers = gated_layers(self.model) if replacement else []
        for layer in self.layers:
            layer.mask.assign(tf.cast(layer.score > 0.5, tf.float32))
        self.images, self.labels = tf.random.normal([batch, 32, 32, 3]), tf.random.uniform([batch], 0, 10, tf.int32)
        self.slots = {weight.ref(): tf.Variable(tf.zeros_like(weight)) for weight in self.model.trainable_weights}
        self.steps = {scored: tf.function(lambda scored=scored: self.update(scored)) for scored in (False, True)}

    def update(self, scored):
        import tensorflow as tf

        scores = {layer.score.ref() for layer in self.layers}
        weights = [weight for weight in self.model.trainable_weights if scored or weight.ref() not in scores]
        with tf.GradientTape() as tape:
            logits = self.model(self.images, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(self.labels, logits))
        for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
            weight.assign_sub(RATE * self.slots[weight.ref()].assign(MOMENTUM * self.slots[weight.ref()] + gradient))
        for layer in self.layers:
            layer.project_coefficients()
            if scored:
                layer.refresh_coefficients()
        return loss

    def step(self, scored):
        return float(self.steps[scored]())


class TorchVariant:
    """The same network, batch and update in PyTorch; `gated` = the original's quadratic with running statistics."""

    def __init__(self, gated, batch):
        import torch

        torch.manual_seed(0)
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self.model = torch_resnet20(torch_gated_quadratic() if gated else lambda channels, size: torch.nn.ReLU())
        self.images, self.labels = torch.randn(batch, 3, 32, 32), torch.randint(0, 10, [batch])
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=RATE, momentum=MOMENTUM)

    def step(self, scored):
        import torch

        self.optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(self.model(self.images), self.labels)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def torch_gated_quadratic():
    """The class of the original's activation: one score per element, hysteresis, a trained quadratic per channel."""
    import torch

    class StraightThrough(torch.autograd.Function):
        @staticmethod
        def forward(context, score, mask):
            context.save_for_backward(score)
            return mask

        @staticmethod
        def backward(context, gradient):
            return torch.nn.functional.softplus(context.saved_tensors[0]) * gradient, None

    class GatedQuadratic(torch.nn.Module):
        def __init__(self, channels, size):
            super().__init__()
            self.score = torch.nn.Parameter(torch.rand(channels, size, size))
            self.register_buffer("mask", (self.score.detach() > 0.5).float())
            self.coefficients = torch.nn.ParameterList(
                [torch.nn.Parameter(torch.full([1, channels, 1, 1], start)) for start in (0.0, 1.0, 0.0)]
            )
            self.statistics = torch.nn.BatchNorm2d(channels, affine=False)

        def forward(self, x):
            with torch.no_grad():
                keep, back = (self.score > -0.003).float(), (self.score > 0.003).float()
                self.mask.copy_(self.mask * keep + (1 - self.mask) * back)
                self.statistics(x)
            mask = StraightThrough.apply(self.score, self.mask)
            w0, w1, w2 = self.coefficients
            return mask * torch.relu(x) + (1 - mask) * (0.1 * w2 * x**2 + w1 * x + w0)

    return GatedQuadratic


def torch_resnet20(activation):
    """ResNet-20 with option-A shortcuts; `activation(channels, size)` makes the module of one site."""
    import torch
    from torch import nn

    def conv_bn(inputs, outputs, stride=1):
        conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs))

    class Block(nn.Module):
        def __init__(self, inputs, outputs, size):
            super().__init__()
            self.stride, self.extra = outputs // inputs, (outputs - inputs) // 2
            self.first, self.second = conv_bn(inputs, outputs, self.stride), conv_bn(outputs, outputs)
            self.inner, self.outer = activation(outputs, size), activation(outputs, size)

        def forward(self, x):
            y = self.second(self.inner(self.first(x)))
            shortcut = x[:, :, :: self.stride, :: self.stride]
            shortcut = nn.functional.pad(shortcut, (0, 0, 0, 0, self.extra, self.extra))
            return self.outer(y + shortcut)

    widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
    blocks = [Block(a, b, 512 // b) for a, b in itertools.pairwise(widths)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(conv_bn(3, 16), activation(16, 32), *blocks, *head).to(torch.float32)


def make(name, batch):
    """The variant of one worker."""
    if name.startswith("torch "):
        return TorchVariant(name != "torch plain", batch)
    return TensorFlowVariant(None if name == "plain" else name, batch)


def work(name, batch):
    """A worker: answers each line on stdin ("scored count") with the seconds of that many steps, as JSON lines."""
    variant = make(name, batch)
    for scored in (False, True):
        variant.step(scored), variant.step(scored)
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024), flush=True)
    for line in sys.stdin:
        scored, count = map(int, line.split())
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            loss = variant.step(bool(scored))
            seconds.append(time.perf_counter() - start)
        if not abs(loss) < 1e6:
            raise SystemExit(f"{name}: the loss became {loss}")
        print(json.dumps(seconds), flush=True)


class Worker:
    """The parent's handle of one worker process."""

    def __init__(self, name, batch):
        self.name = name
        command = [sys.executable, __file__, "--worker", name, "--batch", str(batch)]
        environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
        pipe, self.log = subprocess.PIPE, tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self.log, text=True, env=environment)
        self.peak_bytes = self._answer()

    def seconds(self, scored, count):
        """The fastest of `count` steps."""
        self.process.stdin.write(f"{int(scored)} {count}\n")
        self.process.stdin.flush()
        return min(self._answer())

    def close(self):
        self.process.stdin.close()
        self.process.wait()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.log.seek(0)
            raise SystemExit(f"{self.log.read()}\nThe worker for {self.name!r} ended with exit code {code}.")
        return json.loads(line)


def measure(names, *, rounds, steps, batch):
    """{(name, scored): seconds per round} and {name: peak bytes}; the order turns from round to round."""
    with contextlib.ExitStack() as stack:
        workers = []
        for name in names:
            workers.append(Worker(name, batch))
            stack.callback(workers[-1].close)
        jobs = [
            (worker, scored) for worker in workers for scored in ((False, True) if worker.name in GATED else (False,))
        ]
        times = {(worker.name, scored): [] for worker, scored in jobs}
        for turn in range(rounds):
            start = turn % len(jobs)
            for worker, scored in jobs[start:] + jobs[:start]:
                times[worker.name, scored].append(worker.seconds(scored, steps))
        return times, {worker.name: worker.peak_bytes for worker in workers}


def rows_of(times, peaks, interval):
    """One row per line of the table."""
    plain, rows = times["plain", False], []

    def add(label, name, seconds):
        rows.append(
            {
                "variant": label,
                "seconds_min": min(seconds),
                "seconds_median": statistics.median(seconds),
                "ratio": statistics.median(a / b for a, b in zip(seconds, plain, strict=True)),
                "ratio_of_min": min(seconds) / min(plain),
                "peak_bytes": peaks[name],
                "peak_ratio": peaks[name] / peaks["plain"],
            }
        )

    for name in peaks:
        if name not in GATED:
            add(name, name, times[name, False])
            continue
        pairs = list(zip(times[name, False], times[name, True], strict=True))
        add(name, name, [((interval - 1) * without + scored) / interval for without, scored in pairs])
        add(f"{name}, scores every step", name, [scored for _, scored in pairs])
    return rows


def judge(rows):
    """[(what, value, bar, met)] for every bar that this run can judge."""
    table = {row["variant"]: row for row in rows}
    bars = [(f"{name} / plain", table[name]["ratio"], bar) for name, bar in BARS.items()]
    memory = max(table[name]["peak_ratio"] for name in GATED)
    verdicts = [(what, value, f"<= {bar}", value <= bar) for what, value, bar in bars]
    verdicts.append(("peak memory, largest gated / plain", memory, f"<= {MEMORY_BAR}", memory <= MEMORY_BAR))
    if "torch quadratic" in table:
        faster = table["torch quadratic"]["ratio"] / table["quadratic"]["ratio"]
        verdicts.append(("PyTorch gated quadratic / ours", faster, f">= {TORCH_BAR}", faster >= TORCH_BAR))
    return verdicts


def show(rows, verdicts, interval):
    """The table for people."""
    print(f"Seconds per training step; scores every {interval}. step unless the name says otherwise.\n")
    print(f"{'variant':40s} {'min s':>8s} {'median s':>9s} {'ratio':>7s} {'of mins':>8s} {'peak MB':>8s} {'ratio':>6s}")
    for row in rows:
        print(
            f"{row['variant']:40s} {row['seconds_min']:8.4f} {row['seconds_median']:9.4f} {row['ratio']:7.3f} "
            f"{row['ratio_of_min']:8.3f} {row['peak_bytes'] / 2**20:8.0f} {row['peak_ratio']:6.2f}"
        )
    print()
    for what, value, bar, met in verdicts:
        print(f"{what:40s} {value:6.3f} (bar {bar}): {'met' if met else 'NOT met'}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=3, help="steps per variant and round; the fastest counts")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--score-interval", type=int, help="default: the search's own")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.batch)
        return
    interval = options.score_interval or default_interval()
    names = ["plain", *GATED, *([] if options.no_torch else ["torch plain", "torch quadratic"])]
    times, peaks = measure(names, rounds=options.rounds, steps=options.steps, batch=options.batch)
    rows = rows_of(times, peaks, interval)
    verdicts = judge(rows)
    if options.json:
        bars = [dict(zip(("what", "value", "bar", "met"), verdict, strict=True)) for verdict in verdicts]
        print(
            json.dumps({"batch": options.batch, "score_interval": interval, "variants": rows, "bars": bars}, indent=2)
        )
    else:
        show(rows, verdicts, interval)


def default_interval():
    from keras_relu.replacement import Search

    return Search.model_fields["score_interval"].default


if __name__ == "__main__":
    main()
