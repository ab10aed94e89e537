"""The stages under a distribution strategy."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

JOB = Path(__file__).with_name("replicas_job.py")

# As in test_pruned_and_quantized.
EXPECTED = {"block1_depthwise_conv": 151, "block2_depthwise_conv": 350, "block2_project_conv": 96, "tail_conv": 154}


@pytest.mark.slow
def test_every_stage_on_two_replicas():
    done = subprocess.run([sys.executable, str(JOB)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["replicas"] == 2
    assert answer["pqat"] == answer["pruned"]
    assert {name: answer["pruned"][name] for name in EXPECTED} == EXPECTED
    # Batch statistics are those of each replica, so the weights, and a few choices, differ from one device's.
    assert answer["same_mask"] > 0.95
