# Build:  docker build -t compress .
#         docker build -t compress --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu .   (without CUDA)
# Run:    docker run --rm -v "$PWD:/w" compress model.pt --recipe auto --data samples
FROM python:3.12-slim

# Another package index, for pip alone: PIP_INDEX_URL replaces the usual one, PIP_EXTRA_INDEX_URL adds one.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

# HOME and USER serve whoever `--user` names: PyTorch asks for both, and neither need be in /etc/passwd.
ENV PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1 HOME=/tmp USER=compress

# What targets over SSH are reached with.
RUN apt-get update && apt-get install -y --no-install-recommends openssh-client && rm -rf /var/lib/apt/lists/*

# The dependencies are a layer of their own: a change of the code does not install PyTorch again.
COPY pyproject.toml /src/
RUN python -c "import tomllib; print(*tomllib.load(open('/src/pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
    > /src/requirements.txt && pip install -r /src/requirements.txt

COPY README.md LICENSE /src/
COPY compressor /src/compressor
COPY recipes /src/recipes
RUN pip install --no-deps /src && rm -rf /src

RUN useradd --create-home --uid 1000 compress
USER compress
WORKDIR /w
ENTRYPOINT ["compress"]
