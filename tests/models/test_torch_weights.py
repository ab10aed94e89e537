"""PyTorch checkpoints: the same logits as PyTorch, and clear refusals."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from keras_relu import counting, models
from keras_relu.errors import UserError
from keras_relu.models import torch_weights
from keras_relu.models.resnet import build_resnet
from keras_relu.models.wide_resnet import build_wide_resnet

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
F = torch.nn.functional
nn = torch.nn


def conv(i, o, k, s=1):
    return nn.Conv2d(i, o, k, s, k // 2, bias=False)


class Shortcut(nn.Module):
    """Option A."""

    def __init__(self, extra):
        super().__init__()
        self.extra = extra

    def forward(self, x):
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra // 2, self.extra // 2))


class Block(nn.Module):
    """Basic or bottleneck block; `attribute` is what the author called the shortcut."""

    def __init__(self, i, o, s, *, attribute="shortcut", option_a=False, bottleneck=False):
        super().__init__()
        wide = 4 * o if bottleneck else o
        shapes = [(i, o, 1), (o, o, 3, s), (o, wide, 1)] if bottleneck else [(i, o, 3, s), (o, o, 3)]
        self.count = len(shapes)
        for n, shape in enumerate(shapes, start=1):
            self.add_module(f"conv{n}", conv(*shape))
            self.add_module(f"bn{n}", nn.BatchNorm2d(shape[1]))
        side = nn.Sequential()
        if s > 1 or i != wide:
            side = Shortcut(o - i) if option_a else nn.Sequential(conv(i, wide, 1, s), nn.BatchNorm2d(wide))
        self.attribute = attribute
        self.add_module(attribute, side)

    def forward(self, x):
        y = x
        for n in range(1, self.count + 1):
            y = getattr(self, f"bn{n}")(getattr(self, f"conv{n}")(y))
            y = F.relu(y) if n < self.count else y
        return F.relu(y + getattr(self, self.attribute)(x))


class ResNet(nn.Module):
    def __init__(self, *, stem, widths, repeats, classes=10, head="linear", kernel=3, pool=False, **block):
        super().__init__()
        self.conv1, self.bn1 = conv(3, stem, kernel, 1 if kernel == 3 else 2), nn.BatchNorm2d(stem)
        self.pool, self.stages, self.head = pool, len(widths), head
        i = stem
        for stage, (width, repeat) in enumerate(zip(widths, repeats, strict=True), start=1):
            blocks = []
            for b in range(repeat):
                blocks.append(Block(i, width, 2 if stage > 1 and b == 0 else 1, **block))
                i = width * (4 if block.get("bottleneck") else 1)
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.add_module(head, nn.Linear(i, classes))

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(x, 3, 2, 1) if self.pool else x
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return getattr(self, self.head)(x.mean((2, 3)))


class WideBlock(nn.Module):
    def __init__(self, i, o, s):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(i), conv(i, o, 3, s)
        self.bn2, self.conv2 = nn.BatchNorm2d(o), conv(o, o, 3)
        self.convShortcut = conv(i, o, 1, s) if i != o else None

    def forward(self, x):
        active = F.relu(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return y + (self.convShortcut(active) if self.convShortcut else x)


class WideStage(nn.Module):
    def __init__(self, i, o, s, n):
        super().__init__()
        self.layer = nn.Sequential(*(WideBlock(i if b == 0 else o, o, s if b == 0 else 1) for b in range(n)))


class WideResNet(nn.Module):
    def __init__(self, depth, width):
        super().__init__()
        widths, n = [16, 16 * width, 32 * width, 64 * width], (depth - 4) // 6
        self.conv1 = conv(3, 16, 3)
        for stage in (1, 2, 3):
            self.add_module(f"block{stage}", WideStage(widths[stage - 1], widths[stage], min(stage, 2), n))
        self.bn1, self.fc = nn.BatchNorm2d(widths[3]), nn.Linear(widths[3], 10)

    def forward(self, x):
        x = self.block3.layer(self.block2.layer(self.block1.layer(self.conv1(x))))
        return self.fc(self.bn1(x).mean((2, 3)))


def lively(net):
    """Statistics and affine parameters as after a training, so that a swapped pair would show."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.75)
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
    return net.eval()


def resnet20(**options):
    torch.manual_seed(0)
    return lively(ResNet(stem=16, widths=(16, 32, 64), repeats=(3, 3, 3), **{"option_a": True, **options}))


def assert_same_logits(net, model):
    shape = model.input_shape[1:]
    x = np.random.default_rng(0).normal(size=(3, *shape)).astype("float32")
    with torch.no_grad():
        theirs = net(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    ours = model(x).numpy()
    assert np.abs(theirs).max() > 0.05
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * max(1, np.abs(theirs).max()))


@pytest.fixture
def saved(tmp_path):
    def save(content, **options):
        torch.save(content, tmp_path / "weights.pt", **options)
        return tmp_path / "weights.pt"

    return save


@pytest.mark.parametrize(("legacy", "wrapper"), [(False, None), (True, "state_dict"), (False, "state_dict")])
def test_resnet20_gives_the_logits_of_pytorch(saved, legacy, wrapper):
    net = resnet20()
    state = {f"module.{key}": value for key, value in net.state_dict().items()}
    content = {wrapper: state, "best_prec1": np.float64(91.5), "epoch": 3} if wrapper else state
    path = saved(content, _use_new_zipfile_serialization=not legacy)
    assert_same_logits(net, torch_weights.convert(path, "resnet20"))


@pytest.mark.parametrize("wrapper", ["net", "model", "model_state_dict"])
def test_other_wrappers_are_opened(saved, wrapper):
    state = torch_weights.read_state_dict(saved({wrapper: {"module.a.weight": torch.ones(2)}, "epoch": 3}))
    assert list(state) == ["a.weight"]


@pytest.mark.parametrize("attribute", ["shortcut", "downsample"])
def test_option_b_is_recognised_by_its_convolutions(saved, attribute):
    net = resnet20(option_a=False, attribute=attribute, head="fc", classes=7)
    model = torch_weights.convert(saved(net.state_dict()), "resnet20")
    assert model.output_shape == (None, 7)
    assert_same_logits(net, model)


@pytest.mark.parametrize("size", [(32, 32, 3), (13, 9, 3)])
@pytest.mark.parametrize("stem", ["plain", "small", "imagenet"])
def test_four_stage_networks(saved, stem, size):
    small = {"widths": (64, 128, 256, 512), "repeats": (1, 1, 1, 1), "head": "fc", "attribute": "downsample"}
    net = lively(ResNet(stem=64, kernel=7 if stem == "imagenet" else 3, pool=stem != "plain", **small))
    model = build_resnet("net", size, 10, None, repeats=(1, 1, 1, 1), stem=stem, bottleneck=False)
    torch_weights.load_torch_weights(model, saved(net.state_dict()))
    assert_same_logits(net, model)


def test_bottlenecks(saved):
    net = lively(ResNet(stem=64, widths=(64, 128, 256, 512), repeats=(2, 1, 1, 1), bottleneck=True))
    model = build_resnet("net", (16, 16, 3), 10, None, repeats=(2, 1, 1, 1), stem="plain", bottleneck=True)
    torch_weights.load_torch_weights(model, saved(net.state_dict()))
    assert_same_logits(net, model)


def test_wide_resnets(saved):
    net = lively(WideResNet(16, 2))
    model = build_wide_resnet("net", (16, 16, 3), 10, None, depth=16, width=2, dropout=0.0)
    torch_weights.load_torch_weights(model, saved(net.state_dict()))
    assert_same_logits(net, model)


def test_half_precision_and_class_gates_are_accepted(saved):
    net = resnet20()
    state = {key: value.to(torch.bfloat16) for key, value in net.state_dict().items()}
    model = torch_weights.convert(saved({**state, "csg": torch.ones(10, 64)}), "resnet20")
    assert model.get_layer("stem_conv").kernel.dtype == "float32"


def test_missing_and_unmapped_names_are_listed_and_nothing_is_changed(saved):
    state = resnet20().state_dict()
    model = models.build("resnet20")
    before = model.get_weights()
    without = {key: value for key, value in state.items() if key not in ("bn1.bias", "linear.weight")}
    with pytest.raises(UserError, match="nothing in the file for stem_bn/beta:0, classifier/kernel:0"):
        torch_weights.load_torch_weights(model, saved(without))
    with pytest.raises(UserError, match=r"no place for extra, layer1\.0\.conv9\.weight"):
        torch_weights.load_torch_weights(
            model, saved({**state, "extra": torch.ones(2), "layer1.0.conv9.weight": torch.ones(2)})
        )
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_another_architecture_is_refused_with_a_short_list(saved):
    with pytest.raises(UserError, match=r"and \d+ more"):
        torch_weights.convert(saved(resnet20().state_dict()), "resnet56")


def test_wrong_shapes_are_named(saved):
    path = saved(resnet20().state_dict())
    with pytest.raises(
        UserError, match=r"wrong shape of linear\.weight \[10, 64\] for classifier/kernel:0 \[64, 100\]"
    ):
        torch_weights.convert(path, "resnet20", classes=100)


def test_values_that_are_not_finite_are_refused(saved):
    state = resnet20().state_dict()
    state["bn1.bias"][3] = float("nan")
    with pytest.raises(UserError, match=r"not finite in bn1\.bias"):
        torch_weights.convert(saved(state), "resnet20")


class Trap:
    """Would run on loading if the file were trusted."""

    def __reduce__(self):
        return os.system, ("true",)


def damaged_files(tmp_path, saved):
    good = saved(resnet20().state_dict()).read_bytes()
    legacy = saved(resnet20().state_dict(), _use_new_zipfile_serialization=False).read_bytes()
    yield "random.pt", np.random.default_rng(0).bytes(5000)
    yield "empty.pt", b""
    yield "text.pt", b"these are not weights\n" * 30
    yield "half.pt", good[: len(good) // 2]
    yield "half_legacy.pt", legacy[: len(legacy) // 2]
    yield "code.pt", pickle.dumps({"state_dict": Trap()}, protocol=2)


def test_damaged_and_dangerous_files_are_refused(tmp_path, saved):
    for name, content in damaged_files(tmp_path, saved):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}.*cannot be read as PyTorch weights"):
            torch_weights.convert(tmp_path / name, "resnet20")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state_dict": {}}, {"net": 5}])
def test_files_without_tensors_are_refused(saved, content):
    with pytest.raises(UserError, match="holds no state dictionary"):
        torch_weights.convert(saved(content), "resnet20")


def test_a_missing_file_and_a_directory_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"absent\.pt.*does not exist"):
        torch_weights.convert(tmp_path / "absent.pt", "resnet20")
    with pytest.raises(UserError, match="cannot be read"):
        torch_weights.convert(tmp_path, "resnet20")


def test_an_unknown_architecture_is_refused(tmp_path):
    with pytest.raises(UserError, match="Did you mean 'resnet20'"):
        torch_weights.convert(tmp_path / "absent.pt", "resnet_20")


def weights_file(name):
    folder = os.environ.get("KERAS_RELU_WEIGHTS_DIR")
    found = sorted(Path(folder).rglob(name)) if folder else []
    if not found:
        pytest.skip(f"KERAS_RELU_WEIGHTS_DIR does not name a folder with {name}")
    return found[0]


@pytest.mark.weights
def test_published_resnet20():
    model = torch_weights.convert(weights_file("resnet20-12fca82f.th"), "resnet20")
    assert counting.count(model).parameters == 269_722
    kernel = model.get_layer("stage1_block1_conv1").kernel.numpy()
    assert kernel.shape == (3, 3, 16, 16)
    assert model.get_layer("stem_bn").moving_variance.numpy().min() > 0


@pytest.mark.weights
def test_checkpoint_with_numpy_metrics_and_class_gates():
    model = torch_weights.convert(weights_file("best_save_CSG.pth"), "resnet20")
    assert model.output_shape == (None, 10)


@pytest.mark.weights
@pytest.mark.cifar10
@pytest.mark.parametrize(
    ("mean", "std", "correct"),
    [((0.491, 0.482, 0.447), (0.247, 0.243, 0.261), 9171), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 9173)],
)
def test_published_resnet20_on_the_test_images(mean, std, correct):
    folder = os.environ.get("KERAS_RELU_DATA_DIR")
    found = sorted(Path(folder).rglob("test_batch.bin")) if folder else []
    if not found:
        pytest.skip("KERAS_RELU_DATA_DIR does not name a folder with the CIFAR-10 test_batch.bin")
    rows = np.fromfile(found[0], np.uint8).reshape(-1, 3073)
    images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) / np.float32(255)
    model = torch_weights.convert(weights_file("resnet20-12fca82f.th"), "resnet20")
    logits = model.predict((images - np.float32(mean)) / np.float32(std), batch_size=500, verbose=0)
    assert abs(int((logits.argmax(1) == rows[:, 0]).sum()) - correct) <= 3
