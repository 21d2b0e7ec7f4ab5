"""``pip install dust-video``; the import name is ``dust``."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
VERSION = next(
    line.split('"')[1] for line in (HERE / "dust" / "__init__.py").read_text().splitlines() if "__version__" in line
)

# Lower bounds are those of tests/oldest.txt: `make test-versions` runs the suite with them, and with the newest.
REQUIRES = [
    "torch>=2.10",
    "torchvision>=0.25",
    "yacs>=0.1.8",
    "timm>=1.0.15",
    "einops>=0.8.0",
    "av>=15,<19",
    "numpy>=2.1",
    "Pillow>=11.0",
    "PyYAML>=6.0",
    "simplejson>=3.19.1",
    "psutil>=6.0",
    "scikit-learn>=1.5",
    "tensorboard>=2.18",
    "submitit>=1.5.2",
    "safetensors>=0.5",
    "huggingface_hub>=0.27",
    "matplotlib>=3.9",
    "tqdm>=4.66.1",
]
TRACKS = ["opencv-python-headless>=4.10"]
EXPORT = ["onnx>=1.19", "onnxscript>=0.5", "onnxruntime>=1.23", "openvino>=2025.3"]
SERVE = [
    "fastapi>=0.115",
    "uvicorn>=0.30",
    "python-multipart>=0.0.18",
    "websockets>=13.0",
    "prometheus-client>=0.20",
]
TUNE = ["optuna>=4.0"]
PARQUET = ["pyarrow>=20.0"]
EDF = ["edfio>=0.4.18"]
REMOTE = ["fsspec[http]>=2025.7.0", "s3fs>=2025.7.0"]
SHARDS = ["webdataset>=0.2.100", REMOTE[0]]  # what the tests of shards read with
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.5,<10", "mkdocstrings[python]>=1,<2", "mkdocs-jupyter", "ruff==0.17.*"]
TEST = [
    "pytest>=8",
    "pytest-timeout",
    "pytest-xdist>=3.8",  # --no-loadscope-reorder
    "selenium>=4.20",
    "setuptools>=70.1",
    *TRACKS,
    *SERVE,
    *TUNE,
    *SHARDS,
    *PARQUET,
    *EDF,
]
ZOO = ["zoo/weights.yaml", "zoo/figures.yaml"]


class BuildWithConfigs(build_py):
    """Installs configs/, which stays at the top of the repository, as dust/configs: `dust.utils.package` finds both."""

    def run(self) -> None:
        """Build; an editable install reads the repository's own folder."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "dust" / "configs"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(HERE / "configs", target)


setup(
    name="dust-video",
    version=VERSION,
    description="Video recognition from your own clips, sensors, point tracks and procedures",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["dust", "dust.*"]),
    package_data={
        "dust": ["py.typed", "datasets/DATASET.md", *ZOO, "analysis/report/page.*", "deploy/serve/page/*"],
    },
    python_requires=">=3.10",
    install_requires=REQUIRES,
    extras_require={
        "test": TEST,
        "dev": [*TEST, "ruff==0.17.*", "mypy"],
        "wandb": ["wandb"],
        "mlflow": ["mlflow-skinny>=2.9"],
        "tracks": TRACKS,
        "export": EXPORT,
        "serve": SERVE,
        "tune": TUNE,
        "parquet": PARQUET,
        "edf": EDF,
        "remote": REMOTE,
        "docs": DOCS,
        "torchcodec": ["torchcodec"],
        "clip": ["open_clip_torch>=2.24"],
        "huggingface": ["transformers>=4.51"],
    },
    cmdclass={"build_py": BuildWithConfigs},
    entry_points={"console_scripts": ["dust=dust.__main__:run"]},
)
