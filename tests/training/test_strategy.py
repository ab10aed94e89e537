from __future__ import annotations

import json

import pytest
import tensorflow as tf

from keras_relu.errors import UserError
from keras_relu.training import strategy

SLURM = {"SLURM_STEP_NODELIST": "node[0-1]", "SLURM_STEP_TASKS_PER_NODE": "2,1", "SLURM_PROCID": "2"}


class TestHostlist:
    @pytest.mark.parametrize(
        ("text", "hosts"),
        [
            ("gpu", ["gpu"]),
            ("a,b", ["a", "b"]),
            ("node[0-2]", ["node0", "node1", "node2"]),
            ("n[08-11]", ["n08", "n09", "n10", "n11"]),
            ("n[1-2,07],login", ["n1", "n2", "n07", "login"]),
            ("r[1-2]n[3-4]", ["r1n3", "r1n4", "r2n3", "r2n4"]),
            ("node[9-10].lab", ["node9.lab", "node10.lab"]),
        ],
    )
    def test_expands_in_slurms_order(self, text, hosts):
        assert strategy.expand_hostlist(text) == hosts

    @pytest.mark.parametrize("text", ["", "node[1", "node[a-b]", "a,,b"])
    def test_refuses(self, text):
        with pytest.raises(UserError, match="host list"):
            strategy.expand_hostlist(text)


class TestTaskCounts:
    @pytest.mark.parametrize(("text", "counts"), [("1", [1]), ("2(x3),1", [2, 2, 2, 1]), ("4,2", [4, 2])])
    def test_expands(self, text, counts):
        assert strategy.expand_tasks_per_node(text) == counts

    @pytest.mark.parametrize("text", ["", "x2", "2(x)"])
    def test_refuses(self, text):
        with pytest.raises(UserError, match="task counts"):
            strategy.expand_tasks_per_node(text)


class TestCluster:
    def test_one_worker_per_task_with_ports_by_rank(self):
        cluster = strategy.slurm_tf_config(SLURM, base_port=1000)
        assert cluster["cluster"]["worker"] == ["node0:1000", "node0:1001", "node1:1002"]
        assert cluster["task"] == {"type": "worker", "index": 2}

    def test_one_host_for_pretend_nodes(self):
        cluster = strategy.slurm_tf_config({**SLURM, "ONE_HOST": "127.0.0.1", "KERAS_RELU_BASE_PORT": "77"})
        assert cluster["cluster"]["worker"] == ["127.0.0.1:77", "127.0.0.1:78", "127.0.0.1:79"]

    def test_lists_that_do_not_fit(self):
        with pytest.raises(UserError, match="2 nodes but task counts for 3"):
            strategy.slurm_tf_config({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "1(x3)"})


class TestGetStrategy:
    @pytest.fixture(autouse=True)
    def _no_cluster(self, monkeypatch):
        for key in ("TF_CONFIG", *SLURM):
            monkeypatch.delenv(key, raising=False)

    def test_unknown(self):
        with pytest.raises(UserError, match="Did you mean 'mirrored'"):
            strategy.get_strategy("mirored")

    def test_one_and_auto_are_the_default_on_one_device(self):
        for name in ("one", "auto"):
            chosen = strategy.get_strategy(name)
            assert not strategy.is_distributed(chosen)
            assert strategy.is_chief(chosen)

    def test_auto_with_a_cluster_of_one_task(self, monkeypatch):
        monkeypatch.setenv(
            "TF_CONFIG", json.dumps({"cluster": {"worker": ["h:1"]}, "task": {"type": "worker", "index": 0}})
        )
        assert not strategy.is_distributed(strategy.get_strategy("auto"))

    def test_multiworker_without_a_cluster(self):
        with pytest.raises(UserError, match="found no cluster"):
            strategy.get_strategy("multiworker")

    def test_broken_tf_config(self, monkeypatch):
        monkeypatch.setenv("TF_CONFIG", "{not json")
        with pytest.raises(UserError, match="TF_CONFIG"):
            strategy.get_strategy("auto")

    def test_place_model_is_the_model_itself_on_one_device(self, make_model):
        model = make_model()
        assert strategy.place_model(model, tf.distribute.get_strategy()) is model
