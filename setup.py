"""Packaging of keras_relu: metadata, dependencies, extras and the console script."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = (ROOT / "keras_relu" / "_version.py").read_text(encoding="utf-8").split('__version__ = "')[1].split('"')[0]

setup(
    name="keras_relu",
    version=VERSION,
    description="Which ReLUs a convolutional network needs, what each costs, and what can replace them",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="The keras_relu authors",
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["keras_relu", "keras_relu.*"]),
    package_data={
        "keras_relu": [
            "py.typed",
            "cost/data/*.yaml",
            "experiments/recipes/*.yaml",
            "report/*.yaml",
            "report/templates/*",
        ]
    },
    install_requires=[
        "tensorflow>=2.16,<2.22",
        "tf_keras>=2.16,<2.22",
        "tensorflow-model-optimization>=0.8",
        "tensorflow-datasets>=4.9",
        # Event files are written through it; TensorFlow 2.21 no longer brings it along.
        "tensorboard>=2.16,<2.22",
        # TFLite files are rewritten with it; TensorFlow depends on it too.
        "flatbuffers>=23.5",
        # tensorflow-datasets needs it on every Python but lists it only for old ones.
        "importlib_resources",
        "numpy>=1.26",
        "pandas>=2.0",
        "scikit-learn>=1.3",
        "scipy>=1.11",
        "matplotlib>=3.7",
        "jinja2>=3.1",
        "pydantic>=2.5",
        "pyyaml>=6.0",
        "pillow>=10.0",
        "rich>=13.0",
        "typer>=0.12",
        "typing_extensions>=4.8",
    ],
    extras_require={
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3",
            "hypothesis>=6.90",
            "ruff>=0.6",
            "mypy>=1.10",
            "types-PyYAML",
            "pandas-stubs",
        ],
        "torch": ["torch==2.13.0"],
        "mpc": ["spu==0.10.0.dev20251211; python_version >= '3.11'"],
    },
    entry_points={"console_scripts": ["keras-relu = keras_relu.cli:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
