# One image for every longtake service. The default torch wheels use the GPU if the host has an NVIDIA driver.
FROM python:3.12-slim

WORKDIR /opt/longtake
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY blobstore blobstore
COPY ltx2 ltx2
COPY tasks tasks
RUN pip install --no-cache-dir --constraint constraints.txt ".[server]"

RUN useradd --create-home longtake && mkdir -p /var/lib/longtake && chown longtake /var/lib/longtake
USER longtake
ENV LONGTAKE_HOME=/var/lib/longtake
ENV HF_HOME=/var/lib/longtake/huggingface
WORKDIR /home/longtake
CMD ["longtake", "worker"]
