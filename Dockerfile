# The worker and the other commands of usage-worker:
#
#   docker build -t usage-worker .
#   docker run --rm usage-worker --help
#
# What is in it: /usr/share/usage-worker/sbom.cdx.json (CycloneDX) and uv.lock beside it.

ARG BASE=python:3.13-slim

FROM ${BASE} AS build
ARG UV_VERSION=0.13.9
# What is optional, such as "--extra otel" for USAGE_TRACES.
ARG EXTRAS=
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never
RUN pip install --no-cache-dir --root-user-action=ignore "uv==${UV_VERSION}"
WORKDIR /build
# Dependencies first: they change less often than the code, and keep a layer of their own. Each is the version, and has the
# hash, that stands in uv.lock.
COPY pyproject.toml uv.lock ./
COPY client/pyproject.toml client/
RUN UV_PROJECT_ENVIRONMENT=/opt/usage-worker uv sync --frozen --no-dev --no-install-workspace ${EXTRAS} \
 && UV_PROJECT_ENVIRONMENT=/opt/cyclonedx uv sync --frozen --only-group release
COPY . .
RUN UV_PROJECT_ENVIRONMENT=/opt/usage-worker uv sync --frozen --no-dev --no-editable ${EXTRAS} \
 && mkdir -p /opt/share && cp uv.lock /opt/share/ \
 && /opt/cyclonedx/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml \
      -o /opt/share/sbom.cdx.json /opt/usage-worker/bin/python

FROM ${BASE}
# Nothing is installed in a running container; Debian's packages stay as they are.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/pip*
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin usage
COPY --from=build /opt/share /usr/share/usage-worker
COPY --from=build /opt/usage-worker /opt/usage-worker
ENV PATH=/opt/usage-worker/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    USAGE_HTTP_HOST=0.0.0.0 \
    USAGE_HTTP_PORT=9464
# By number, so that an orchestrator can see that it is not root.
USER 10001:10001
EXPOSE 9464
STOPSIGNAL SIGTERM
# Alive, not ready: a worker that waits for its database would not be helped by a restart.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["python", "-m", "worker.probe"]
ENTRYPOINT ["usage-worker"]
CMD ["run"]
# Last, so that another revision of the same code is the same layers. `make release` gives the first two.
ARG VERSION=unreleased
ARG REVISION=unknown
ARG SOURCE=https://git.example.com/usage-worker
LABEL org.opencontainers.image.title="usage-worker" \
      org.opencontainers.image.description="Accounts for AI usage: RabbitMQ in, Postgres rows out, exactly once" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
