"""``pip install dust-video``; the import name is ``dust``."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = next(
    line.split('"')[1] for line in (HERE / "dust" / "__init__.py").read_text().splitlines() if "__version__" in line
)

REQUIRES = [
    "torch>=2.10",
    "torchvision",
    "fvcore",
    "yacs",
    "timm>=1.0.15",
    "einops",
    "av>=15,<19",
    "simplejson",
    "psutil",
    "scikit-learn",
    "tensorboard",
    "submitit",
    "safetensors",
    "huggingface_hub",
    "matplotlib",
    "tqdm",
]
TRACKS = ["opencv-python-headless"]
TEST = ["pytest>=8", "pytest-timeout", "pytest-xdist", *TRACKS]

setup(
    name="dust-video",
    version=VERSION,
    description="Video recognition from your own clips, sensors, point tracks and procedures",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["dust", "dust.*"]),
    package_data={"dust": ["py.typed", "datasets/DATASET.md"]},
    python_requires=">=3.10",
    install_requires=REQUIRES,
    extras_require={"test": TEST, "dev": [*TEST, "ruff==0.17.*", "mypy"], "wandb": ["wandb"], "tracks": TRACKS},
    entry_points={"console_scripts": ["dust=dust.engine.run_net:main"]},
)
