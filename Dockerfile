# The image of the gateway: no compiler, no pip, no root. Pin the base by digest in your own build:
#   docker build --build-arg BASE=python:3.13-slim@sha256:… .
# Run it with a read-only root; only the volume is written to:
#   docker run --read-only --cap-drop ALL --security-opt no-new-privileges \
#     -v ./config.yaml:/etc/passgate/config.yaml:ro -v passgate:/var/lib/passgate -p 8080:8080 passgate
# In that config the listeners bind 0.0.0.0 and `state.durable` is sqlite:/var/lib/passgate/passgate.db.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY requirements.txt requirements-build.txt ./
RUN python -m venv /opt/build \
 && /opt/build/bin/pip install --require-hashes --only-binary :all: -r requirements-build.txt \
 && python -m venv /opt/passgate \
 && /opt/passgate/bin/pip install --require-hashes --only-binary :all: -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
RUN /opt/build/bin/pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /wheels . \
 && /opt/passgate/bin/pip install --no-deps --no-index /wheels/passgate-*.whl \
 && /opt/passgate/bin/pip uninstall --yes pip

FROM ${BASE}
ENV PATH=/opt/passgate/bin:$PATH \
    PASSGATE_CONFIG=/etc/passgate/config.yaml \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY --from=build /opt/passgate /opt/passgate
RUN /usr/local/bin/python -m pip uninstall --yes --root-user-action=ignore pip \
 && install -d /etc/passgate && install -d -o 10001 -g 10001 -m 0700 /var/lib/passgate
USER 10001:10001
WORKDIR /var/lib/passgate
VOLUME /var/lib/passgate
EXPOSE 8080 9464 9901
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 CMD ["python", "-c", "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 9464, timeout=2); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["passgate"]
CMD ["serve"]
