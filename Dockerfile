# The worker and the other commands of usage-worker:
#
#   docker build -t usage-worker .
#   docker run --rm usage-worker --help

FROM python:3.13-slim AS build
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PROJECT_ENVIRONMENT=/opt/usage-worker \
    UV_PYTHON_DOWNLOADS=never
RUN pip install --no-cache-dir --root-user-action=ignore "uv<1"
WORKDIR /build
# Dependencies first: they change less often than the code, and keep a layer of their own.
COPY pyproject.toml uv.lock ./
COPY client/pyproject.toml client/
RUN uv sync --frozen --no-dev --no-install-workspace --no-cache
COPY . .
RUN uv sync --frozen --no-dev --no-editable --no-cache

FROM python:3.13-slim
LABEL org.opencontainers.image.title="usage-worker" \
      org.opencontainers.image.description="Accounts for AI usage: RabbitMQ in, Postgres rows out, exactly once" \
      org.opencontainers.image.licenses="MIT"
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin usage
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
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as web; web.urlopen(f\"http://127.0.0.1:{os.environ['USAGE_HTTP_PORT']}/livez\", timeout=2)"]
ENTRYPOINT ["usage-worker"]
CMD ["run"]
