# dust in a container, for a CPU or for CUDA:
#
#   docker build -t dust .
#   docker build -t dust:cuda --build-arg BASE=nvidia/cuda:12.8.1-base-ubuntu24.04 \
#     --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .
#   docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" dust gen-data video data/quickstart
#   docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" --gpus all --ipc host dust:cuda --cfg my.yaml
#
# BASE is any Debian or Ubuntu with Python 3.10 or newer, or from whose archive it can be had. TORCH_INDEX is the index of
# PyTorch's wheels, which bring CUDA's libraries themselves: the host gives the driver. EXTRAS is such as [tracks,wandb].
ARG BASE=python:3.12-slim
FROM ${BASE}
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=

RUN command -v python3 || (apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv ca-certificates \
    && rm -rf /var/lib/apt/lists/*)
RUN python3 -m venv /opt/dust && /opt/dust/bin/pip install --no-cache-dir torch torchvision --index-url ${TORCH_INDEX}
COPY . /tmp/dust
RUN /opt/dust/bin/pip install --no-cache-dir "/tmp/dust${EXTRAS}" && rm -rf /tmp/dust
ENV PATH=/opt/dust/bin:${PATH} HOME=/tmp
WORKDIR /work
ENTRYPOINT ["dust"]
CMD ["--help"]
