# The service in an image, for the CPU, with the weights inside: docs/service.md.
FROM python:3.12-slim

# Address of pytorch.org's wheels for the CPU; without it pip's choice brings gigabytes of CUDA.
ARG TORCH_INDEX=""
# Names of the models to put into the image; empty for the default.
ARG MODELS=""

RUN useradd --create-home --uid 1000 scorer
WORKDIR /build
COPY pyproject.toml README.md LICENSE hf_sqa_command.py ./
COPY hf_sqa hf_sqa
COPY train_scripts train_scripts
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch \
    && pip install --no-cache-dir ".[serve,containers]" \
    && rm -rf /build

USER scorer
WORKDIR /home/scorer
RUN hf-sqa download $MODELS
ENV HF_HUB_OFFLINE=1
EXPOSE 8000
HEALTHCHECK --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=10)"]
ENTRYPOINT ["hf-sqa", "serve", "--host", "0.0.0.0"]
