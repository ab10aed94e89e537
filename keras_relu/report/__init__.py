"""Tables and plots of finished and running experiments, from their run directories alone.

Nothing here imports TensorFlow: a report can be written on a laptop from runs copied off a cluster.

    keras_relu.report.build_report(["runs/sweep"], "report.html", figures_dir="figures")
"""

from keras_relu.report.load import RunData, load_runs
from keras_relu.report.page import build_report

__all__ = ["RunData", "build_report", "load_runs"]
