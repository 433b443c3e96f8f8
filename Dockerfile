# CPU image of loopserve. Written without a Docker engine at hand: this file has not been built yet.
FROM python:3.11-slim AS build
WORKDIR /build
RUN python -m venv /opt/venv
# By default pip takes PyTorch's CUDA build (several GB). For a small image, name the index of its CPU builds:
#   docker build --build-arg TORCH_PIP_ARGS="--index-url URL" .
ARG TORCH_PIP_ARGS=""
COPY pyproject.toml README.md LICENSE ./
RUN pin="$(python -c "import tomllib; d = tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies']; print(next(x for x in d if x.startswith('torch==')))")" \
    && /opt/venv/bin/pip install --no-cache-dir ${TORCH_PIP_ARGS} "$pin"
COPY server server
COPY engine engine
COPY kernels kernels
COPY scheduler scheduler
COPY planning planning
RUN /opt/venv/bin/pip install --no-cache-dir .

FROM python:3.11-slim
RUN useradd --create-home --uid 1000 --gid 0 loopserve && mkdir /cache && chown loopserve:0 /cache && chmod g+rwX /cache
# torch and numba need OpenMP's runtime.
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/venv /opt/venv
COPY models/demo /models/demo
ENV PATH=/opt/venv/bin:$PATH HF_HOME=/cache/huggingface NUMBA_CACHE_DIR=/cache/numba LOOPSERVE_HOST=0.0.0.0
USER loopserve
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=600s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=4)"]
ENTRYPOINT ["loopserve", "serve"]
CMD ["/models/demo"]
