"""Pruning: schedules, masks and the choice of layers against oracles."""

import re

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from reference.compression_nets import small_blocks

from keras_relu import compression, models
from keras_relu.compression import masks, pruning
from keras_relu.compression.prune import choose_layers
from keras_relu.errors import UserError

# Spec fusion, section 3.3: zeros of the pruned pointwise and depthwise kernels, and ramp epochs N of the original.
ZEROS = {
    "mobilenet_v2_baseline_cifar10": (90, 1_714_560, 1_371_649, 63_936, 44_756),
    "mobilenet_v2_modified_cifar10": (90, 843_264, 674_609, 108_864, 76_202),
    "mnasnet_baseline_cifar10": (30, 1_794_432, 1_435_492, 108_888, 76_219),
    "mnasnet_modified_cifar10": (36, 1_013_760, 810_985, 221_760, 155_232),
    "shufflenet_modified_cifar10": (30, 830_400, 664_281, 4_212, 2_950),
    "fusionet_cifar10": (30, 1_913_344, 1_530_608, 419_328, 293_520),
    "mobilenet_v2_cifar100": (38, 1_714_560, 1_371_622, 63_936, 44_756),
    "mnasnet_cifar100": (38, 1_794_432, 1_435_518, 108_888, 76_222),
    "fusionet_cifar100": (38, 2_079_744, 1_663_725, 419_328, 293_520),
}
FROZEN = {
    90: (0.79999890, 0.69999904),
    30: (0.79997037, 0.69997407),
    36: (0.79998285, 0.69998500),
    38: (0.79998542, 0.69998724),
}


def size_of(layer):
    return layer.weights[0].shape.num_elements()


def original_ramp(sparsity, epochs, updates=391):
    return pruning.Ramp(sparsity, span=epochs * updates, frequency=1, hold=updates)


class TestChoice:
    @pytest.mark.parametrize("name", ZEROS)
    def test_the_originals_layers_and_their_zeros(self, name):
        epochs, *expected = ZEROS[name]
        layers = choose_layers(models.build(name, seed=None), compression.PruneConfig())
        sums = []
        for depthwise, target in ((False, 0.8), (True, 0.7)):
            ramp = original_ramp(target, epochs)
            of = [layer for layer in layers if isinstance(layer, keras.layers.DepthwiseConv2D) is depthwise]
            groups = {layer: 1 if depthwise else layer.groups for layer in of}
            kept = sum(pruning.kept_weights(size_of(layer), ramp.final_sparsity, groups[layer]) for layer in of)
            sums += [sum(map(size_of, of)), sum(map(size_of, of)) - kept]
        assert sums == expected

    def test_names_patterns_and_predicates(self):
        model = small_blocks()

        def chosen(predicate=None, **settings):
            return [layer.name for layer in choose_layers(model, compression.PruneConfig(**settings), predicate)]

        every = ["block1_expand_conv", "block1_depthwise_conv", "block1_project_conv"]
        assert chosen(include=["block1_*"], exclude=["*_se_*"]) == every
        assert chosen(include=["classifier"]) == ["classifier"]
        assert chosen(lambda layer: layer.name.startswith("tail")) == ["tail_conv"]
        assert chosen(include=["block1_*"], exclude=["*_se_*"], depthwise_sparsity=0) == [every[0], every[2]]

    def test_other_networks_lose_all_but_the_first_convolution(self):
        model = models.build("resnet20", seed=None)
        names = [layer.name for layer in choose_layers(model, compression.PruneConfig())]
        assert len(names) == 18
        assert "stem_conv" not in names
        assert "classifier" not in names

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"include": ["block9_*"]}, "Unknown prunable layer 'block9_*'. Allowed: block1_depthwise_conv"),
            ({"include": ["block1_expand_bn"]}, "Unknown prunable layer 'block1_expand_bn'"),
            ({"exclude": ["conv2d_3"]}, "Unknown prunable layer 'conv2d_3'"),
            ({"include": ["tail_*"], "exclude": ["tail_*"]}, "No layer of 'fusionet_small' is left to prune"),
        ],
    )
    def test_a_choice_that_matches_nothing_is_refused(self, settings, message):
        with pytest.raises(UserError, match=re.escape(message)):
            choose_layers(small_blocks(), compression.PruneConfig(**settings))

    def test_a_predicate_excludes_include(self):
        with pytest.raises(UserError, match="exclude each other"):
            choose_layers(small_blocks(), compression.PruneConfig(include=["tail_conv"]), lambda layer: True)
        with pytest.raises(UserError, match="No layer"):
            choose_layers(small_blocks(), compression.PruneConfig(), lambda layer: False)

    def test_wrapping_a_layer_without_kernel(self):
        with pytest.raises(UserError, match="no layer 'tail_relu' with a kernel"):
            pruning.wrap(small_blocks(), {"tail_relu": pruning.Ramp(0.5)})


class TestSchedule:
    @pytest.mark.parametrize("epochs", FROZEN)
    def test_sparsity_at_which_the_originals_freeze(self, epochs):
        found = [original_ramp(target, epochs).final_sparsity for target in (0.8, 0.7)]
        np.testing.assert_allclose(found, FROZEN[epochs], atol=5e-9)

    def test_the_originals_steps(self):
        ramp = original_ramp(0.8, 10, updates=7)
        targets = [float(ramp.target(update)) for update in range(70)]
        np.testing.assert_allclose(
            targets, np.repeat([0.8 * (1 - (1 - n / 10) ** 3) for n in range(10)], 7), rtol=1e-12
        )
        due = [bool(ramp(tf.constant(update + 1, tf.int64))[0]) for update in range(80)]
        assert due == [True] * 70 + [False] * 10

    def test_a_ramp_begins_and_ends_where_it_is_told_to(self):
        ramp = pruning.Ramp(0.6, begin=5, span=12, frequency=5)
        due = [update for update in range(30) if bool(ramp(tf.constant(update + 1, tf.int64))[0])]
        assert due == [5, 10, 15, 17]
        assert float(ramp.target(5)) == 0
        assert float(ramp.target(17)) == ramp.final_sparsity == 0.6
        assert float(ramp.target(11)) == pytest.approx(0.6 * (1 - 0.5**3))

    def test_a_ramp_without_length_prunes_at_once(self):
        assert pruning.Ramp(0.5, begin=3, span=0).final_sparsity == 0.5

    def test_config_round_trip(self):
        config = pruning.Ramp(0.5, begin=2, span=4, hold=2).get_config()
        assert pruning.Ramp.from_config(config["config"]).get_config() == config


class TestMasks:
    def pruned(self, layer, shape, sparsity, kernel=None):
        """The kernel of `layer` after one update of its mask to `sparsity`."""
        inputs = keras.Input(shape)
        model = keras.Model(inputs, layer(inputs))
        if kernel is not None:
            layer.set_weights([kernel(layer.get_weights()[0])])
        wrapped = pruning.wrap(model, {layer.name: pruning.Ramp(sparsity, span=0)})
        wrapped(tf.zeros([1, *shape]), training=True)
        return layer.get_weights()[0], pruning.strip(wrapped).layers[-1]

    @pytest.mark.parametrize("groups", [1, 2, 4])
    def test_the_smallest_weights_of_each_group_go(self, groups):
        before, layer = self.pruned(keras.layers.Conv2D(12, 1, groups=groups, use_bias=False), (2, 2, 8), 0.8)
        expected = before.copy()
        for part in np.split(expected, groups, axis=-1):
            kept = max(round(part.size * 0.2), 1)
            part[np.abs(part) < np.sort(np.abs(part), axis=None)[-kept]] = 0
        np.testing.assert_array_equal(layer.get_weights()[0], expected)

    def test_depthwise_kernels_are_pruned_and_stay_plain_layers(self):
        before, layer = self.pruned(keras.layers.DepthwiseConv2D(3, use_bias=False), (4, 4, 10), 0.7)
        assert type(layer) is keras.layers.DepthwiseConv2D
        after = layer.get_weights()[0]
        assert np.sum(after == 0) == 63
        assert np.abs(after[after != 0]).min() >= np.sort(np.abs(before), axis=None)[63]

    def test_equal_weights_give_the_exact_number_all_the_same(self):
        _, layer = self.pruned(keras.layers.Conv2D(10, 1, use_bias=False), (2, 2, 10), 0.8, np.ones_like)
        assert np.sum(layer.get_weights()[0] == 0) == 80

    def test_one_weight_stays_whatever_is_asked(self):
        _, layer = self.pruned(keras.layers.Conv2D(2, 1, groups=2, use_bias=False), (2, 2, 4), 0.99)
        assert np.sum(layer.get_weights()[0] != 0) == 2

    def test_a_published_network_in_the_originals_schedule(self):
        """FusioNet for CIFAR-100: 1,663,725 and 293,520 zeros, as its log has them."""
        model = models.build("fusionet_cifar100", input_shape=(8, 8, 3))
        layers = choose_layers(model, compression.PruneConfig())
        targets = {layer.name: 0.7 if "depthwise" in layer.name else 0.8 for layer in layers}
        wrapped = pruning.wrap(model, {name: original_ramp(target, 38) for name, target in targets.items()})
        for wrapper in pruning.wrappers(wrapped):
            wrapper.pruning_step.assign(wrapper.pruning_schedule.last + 1)
            wrapper.pruning_obj.conditional_mask_update()
        table = masks.sparsity_table(pruning.strip(wrapped))
        zeros = {kind: sum(k.zeros for k in table if k.kind == kind) for kind in ("conv", "depthwise", "dense")}
        assert zeros == {"conv": 1_663_725, "depthwise": 293_520, "dense": 0}


class TestConfig:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"pointwise_sparsity": 1.0}, "pointwise_sparsity"),
            ({"pointwise_sparsity": 0, "depthwise_sparsity": 0}, "nothing is pruned"),
            ({"epochs": 3, "ramp_epochs": 4}, "do not fit in 3 epochs"),
            ({"epochs": 3, "begin_epochs": 2, "ramp_epochs": 2}, "do not fit"),
            ({"ramp": "epochs", "ramp_epochs": 1.5}, "needs whole"),
            ({"pointwise_sparsty": 0.5}, "Did you mean 'pointwise_sparsity'"),
            ({"ramp": "step"}, "Unknown ramp 'step'"),
        ],
    )
    def test_settings_out_of_range(self, settings, message):
        with pytest.raises(UserError, match=re.escape(message)):
            compression.PruneConfig.parse(settings)

    def test_weight_decay_of_a_fine_tuning(self):
        assert compression.PruneConfig.parse({}).weight_decay == 1e-4
        assert compression.PruneConfig.parse({"weight_decay": 0.0}).weight_decay == 0.0
        assert compression.PqatConfig.parse({"optimizer": "adam"}).weight_decay is None
        assert compression.PruneConfig.parse({"ramp": "epochs", "epochs": 1}).ramp_length == 1


class TestZeros:
    def test_rules_and_their_check(self):
        model = small_blocks()
        layer = model.get_layer("block1_depthwise_conv")
        kernel = layer.get_weights()[0]
        kernel[0] = 0
        layer.set_weights([kernel])
        found = masks.zero_masks(model)
        assert list(found) == ["block1_depthwise_conv"]
        layer.set_weights([np.ones_like(kernel)])
        with pytest.raises(masks.KerasReLUError, match="72 of 72 pruned weights of 'block1_depthwise_conv'"):
            masks.require_zeros(model, found, "pqat")
        for variable, rule in masks.zero_rules(model, found):
            variable.assign(rule(variable))
        masks.require_zeros(model, found, "pqat")
        with pytest.raises(masks.KerasReLUError, match="'gone' is gone"):
            masks.require_zeros(model, {"gone": kernel}, "pqat")

    def test_masks_of_another_network_are_refused(self):
        with pytest.raises(UserError, match="no kernel 'tail_conv' of the shape"):
            masks.zero_rules(small_blocks(), {"tail_conv": np.zeros([1, 1])})
        with pytest.raises(UserError, match="Unknown layer with a kernel 'tail'"):
            masks.zero_masks(small_blocks(), ["tail"])
