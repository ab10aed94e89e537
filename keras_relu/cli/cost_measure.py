"""cost measure, and lower."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_relu.cli.common import (
    DataDir,
    Json,
    Model,
    NormalizationName,
    Output,
    Seed,
    Trusted,
    emit,
    load_dataset,
    load_keras,
    model_facts,
    table,
)
from keras_relu.cli.cost_common import (
    Bandwidth,
    Rtt,
    Save,
    Weights,
    accuracy,
    bytes_text,
    plain_text,
    preset_and_link,
    saved,
    seconds_text,
)
from keras_relu.errors import UserError, unknown_key
from keras_relu.files import existing_file

if TYPE_CHECKING:
    import numpy as np

    from keras_relu.cost.link import Link
    from keras_relu.cost.measure import Measurement

__all__ = ["register"]


def measure(
    models: Annotated[list[str], typer.Argument(help="Runs or .keras files; all run between the same processes.")],
    protocol: Annotated[str, typer.Option(help="semi2k, cheetah or aby3.")] = "semi2k",
    weights: Weights = "secret",
    images: Annotated[int, typer.Option(min=1, help="Images to run and to check the answers on.")] = 1,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images per run of the engine.")] = 1,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Its test images; without it, images of noise.")
    ] = None,
    data_dir: DataDir = None,
    normalization: NormalizationName = None,
    bandwidth: Annotated[str, typer.Option(help="Of the simulated link.")] = "384Mbps",
    rtt: Annotated[str, typer.Option(help="Of the simulated link: a request and its answer.")] = "40ms",
    engine: Annotated[
        str | None, typer.Option(help="Python or environment with the engine; default: .venv-mpc.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds after which everything is ended.")] = 600.0,
    fraction_bits: Annotated[int, typer.Option(min=1, max=30, help="Bits after the point.")] = 18,
    seed: Seed = 0,
    save: Save = None,
    trusted: Trusted = False,
    json: Json = False,
) -> None:
    """Run models on the secure engine: its own counters of bytes and messages, and secure logits against clear ones."""
    from keras_relu.cost.engine import PROTOCOLS, find_engine
    from keras_relu.cost.link import Link

    if protocol not in PROTOCOLS:
        raise unknown_key("protocol", protocol, PROTOCOLS)
    link = Link.parse(bandwidth, rtt)
    for model in models:
        existing_file(model, "model")
    python = find_engine(engine)
    networks = {model: load_keras(model, trusted=trusted) for model in models}
    pixels = _images(networks, dataset, data_dir, normalization, images, seed)
    from keras_relu.cost.measure import measure as measured

    options: dict[str, Any] = {"engine": python, "timeout_s": timeout, "fraction_bits": fraction_bits}
    found = measured(networks, pixels, protocol=protocol, weights=weights, batch_size=batch_size, **options)
    entries = [
        {"model": model, **accuracy(model), **one.to_dict(), "simulated_s": one.simulated_seconds(link)}
        for model, one in found.items()
    ]
    answer = {"kind": "cost-measurement", "link": str(link), "images": dataset or "noise", "models": entries}
    saved(save, answer)
    emit(answer, as_json=json, lines=_measured_lines(found, entries, link))


def _images(
    networks: Mapping[str, Any],
    dataset: str | None,
    data_dir: str | None,
    normalization: str | None,
    count: int,
    seed: int,
) -> np.ndarray:
    import numpy as np

    first, network = next(iter(networks.items()))
    if dataset is None:
        return np.random.default_rng(seed).normal(size=(count, *network.input_shape[1:])).astype(np.float32)
    data = load_dataset(dataset, data_dir, facts=model_facts(first), normalization=normalization)
    if count > data.test.size:
        raise UserError(f"--images is {count:,}; the test set of {dataset} has {data.test.size:,}.")
    return _test_images(data, count)


def _test_images(data: Any, count: int) -> np.ndarray:
    import numpy as np

    batches, held = [], 0
    for pixels, _ in data.test.batches(min(count, 100)):
        batches.append(data.normalization.apply(pixels).numpy())
        held += len(batches[-1])
        if held >= count:
            break
    return np.concatenate(batches)[:count]


def _measured_lines(found: Mapping[str, Measurement], entries: list[dict[str, Any]], link: Link) -> list[Any]:
    head = (
        "model",
        "bytes",
        "comparison bytes",
        "messages",
        "seconds here",
        "seconds, simulated",
        "max error",
        "argmax",
    )
    rows = [
        (
            entry["model"],
            bytes_text(one.bytes),
            bytes_text(one.comparison_bytes),
            plain_text(one.messages),
            seconds_text(one.seconds),
            seconds_text(entry["simulated_s"]),
            f"{one.max_error:.2g} of {one.logit_scale:.3g}",
            f"{one.same_argmax} of {one.images}",
        )
        for one, entry in zip(found.values(), entries, strict=True)
    ]
    first = next(iter(found.values()))
    operations = [
        table(
            ("operation", "calls", "bytes", "messages", "seconds"),
            [
                (o.name, plain_text(o.count), bytes_text(o.bytes), plain_text(o.messages), seconds_text(o.seconds))
                for o in one.operations
            ],
            title=name,
        )
        for name, one in found.items()
    ]
    from keras_relu.cost.engine import PROTOCOLS

    return [
        *operations,
        table(head, rows, title=f"{first.protocol}, {first.weights} weights, per image"),
        f"{first.protocol}: {PROTOCOLS[first.protocol]}",
        f"simulated: seconds over loopback + bytes over {link.bits_per_second / 1e6:g} Mbps + rounds of half of "
        f"{1e3 * link.rtt_s:g} ms; no such link was there",
    ]


def lower(
    model: Model,
    output: Output,
    preset: Annotated[
        str | None, typer.Option(help="Leave sites alone where lowering does not pay under this cost preset.")
    ] = None,
    bandwidth: Bandwidth = None,
    rtt: Rtt = None,
    trusted: Trusted = False,
    json: Json = False,
) -> None:
    """Make the savings of a reduced model executable: gather, contiguous ReLU, scatter; everything affine folded away."""
    existing_file(model, "model")
    if preset is None and (bandwidth or rtt):
        raise UserError("--bandwidth and --rtt have no effect without --preset.")
    choice = preset_and_link(preset, bandwidth, rtt) if preset else None
    network = load_keras(model, trusted=trusted)
    from keras_relu.cost.lowered import lower_run

    result = lower_run(network, output, parent=model, facts=model_facts(model), choice=choice)
    short = {"output": output, **{key: value for key, value in result.items() if key in _LOWERED}}
    rows = [tuple(site.values()) for site in result["sites_lowered"]]
    emit(
        {**short, "sites": result["sites_lowered"]},
        as_json=json,
        lines=[table(("site", "elements", "ReLUs", "action", "reason"), rows), table(("result", ""), short.items())],
    )


_LOWERED = ("relu_count", "comparisons_before", "comparisons_after", "max_difference", "logit_scale")


def register(app: typer.Typer, group: typer.Typer) -> None:
    """Add `lower` to the application and `measure` to the group `cost`."""
    group.command()(measure)
    app.command()(lower)
