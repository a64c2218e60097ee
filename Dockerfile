# Build:  docker build -t compress .
# Run:    docker run --rm -v "$PWD:/w" -w /w compress model.pt --recipe l1
FROM python:3.12-slim

# HOME and USER serve whoever `--user` names: PyTorch asks for both, and neither need be in /etc/passwd.
ENV PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1 HOME=/tmp USER=compress

# What targets over SSH are reached with.
RUN apt-get update && apt-get install -y --no-install-recommends openssh-client && rm -rf /var/lib/apt/lists/*

COPY pyproject.toml README.md LICENSE /src/
COPY compressor /src/compressor
COPY recipes /src/recipes
RUN pip install /src && rm -rf /src

RUN useradd --create-home --uid 1000 compress
USER compress
WORKDIR /w
ENTRYPOINT ["compress"]
