# loopserve in a container. Targets: `cpu` (the last, so the default) and `cuda`. Needs BuildKit or buildah.
#
#     docker build --tag loopserve:cpu .
#     docker build --tag loopserve:cuda --target cuda .
#
# What is in it, how to run it and how it was tried: deploy/docker.md and docs/results/image.md.

# The tag can move. For builds that repeat, give the digest that your registry shows: python:3.11-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# What to install, read from pyproject.toml; another stage than the code, so that a change of code installs nothing again.
FROM ${PYTHON_IMAGE} AS pins
WORKDIR /pins
COPY pyproject.toml tools/image/requirements.py ./
RUN ["python", "requirements.py", "pyproject.toml", "/pins"]

FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY server server
COPY engine engine
COPY kernels kernels
COPY scheduler scheduler
COPY planning planning
COPY diagnostics diagnostics
COPY benchmarks benchmarks
RUN ["pip", "wheel", "--no-cache-dir", "--no-deps", "--wheel-dir", "/wheel", "."]

# What both targets have in common.
FROM ${PYTHON_IMAGE} AS runtime
# tini is process 1: it passes signals on, also those that come before Python listens, and reaps orphans.
# libgomp1 is for numba's threads. Debian drops old versions from its mirrors, so pinned ones would soon not be found.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 tini \
    && rm -rf /var/lib/apt/lists/*
# Group 0 may do what the user may: OpenShift runs images under some uid of its own, in group 0.
RUN useradd --uid 1000 --gid 0 --no-create-home --home-dir /cache --shell /usr/sbin/nologin loopserve \
    && install --directory --owner=1000 --group=0 --mode=0775 /cache \
    && python -m venv --without-pip /opt/venv
# HOME and USER are for uids without an entry in /etc/passwd. The working directory is where Python puts temporary files
# if there is no writable /tmp. All else that is written, wherever it would lie by default, goes below /cache.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/cache \
    USER=loopserve \
    HF_HOME=/cache/huggingface \
    NUMBA_CACHE_DIR=/cache/numba \
    LOOPSERVE_HOST=0.0.0.0 \
    LOOPSERVE_MODEL=/models/demo
WORKDIR /cache
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=600s --retries=3 \
    CMD ["python", "-P", "-m", "server.healthcheck"]
ENTRYPOINT ["tini", "--", "loopserve", "serve"]
ARG VERSION=""
ARG REVISION=""
LABEL org.opencontainers.image.title="loopserve" \
      org.opencontainers.image.description="Inference server for looped transformers, with OpenAI's API" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM runtime AS cuda
# Triton compiles a small launcher in C for each kernel when it first runs, against Python's headers, which the base has.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
# PyPI's torch for x86-64 is a CUDA build and brings CUDA's libraries; only the driver comes from the host.
ARG TORCH_INDEX=""
RUN --mount=type=bind,from=pins,source=/pins,target=/pins \
    pip --python /opt/venv/bin/python install --no-cache-dir ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} \
        --requirement /pins/torch.txt
RUN --mount=type=bind,from=pins,source=/pins,target=/pins \
    pip --python /opt/venv/bin/python install --no-cache-dir \
        --constraint /pins/torch.txt --requirement /pins/cuda.txt
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip --python /opt/venv/bin/python install --no-cache-dir --no-deps /wheel/*.whl
COPY models/demo /models/demo
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    TRITON_CACHE_DIR=/cache/triton \
    CUDA_CACHE_PATH=/cache/cuda
USER 1000:0

FROM runtime AS cpu
# PyPI's torch for x86-64 is the CUDA build, several GB. This is where PyTorch puts its CPU builds.
ARG TORCH_INDEX="https://download.pytorch.org/whl/cpu"
RUN --mount=type=bind,from=pins,source=/pins,target=/pins \
    pip --python /opt/venv/bin/python install --no-cache-dir ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} \
        --requirement /pins/torch.txt
RUN --mount=type=bind,from=pins,source=/pins,target=/pins \
    pip --python /opt/venv/bin/python install --no-cache-dir \
        --constraint /pins/torch.txt --requirement /pins/cpu.txt
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip --python /opt/venv/bin/python install --no-cache-dir --no-deps /wheel/*.whl
COPY models/demo /models/demo
USER 1000:0
