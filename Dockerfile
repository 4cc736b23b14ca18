# One node. docker-compose.yml runs three of them; docs/cluster.md is the operator's page.
#
#   docker build -t wukong .
#   docker run --rm -p 127.0.0.1:5001:5001 -p 127.0.0.1:5100:5100 -p 127.0.0.1:5200:5200 -v wukong:/data wukong
#
# BASE: any image with Python 3.11 or newer, its venv module and the C library of Debian 12 or newer.
# Wheels in deploy/wheels are installed instead of asking a package index: then the build needs no network.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# pip stays behind in the first of the two: the image gets the second.
RUN python3 -m venv /build && python3 -m venv --without-pip /opt/wukong
WORKDIR /src
COPY deploy/wheels wheels
COPY pyproject.toml ./
# What changes seldom first, so that a new version of the server alone is a small layer.
RUN set -eu; \
    if ls wheels/*.whl >/dev/null 2>&1; then index="--no-index --find-links wheels"; else index=""; fi; \
    python3 -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); \
print("\n".join(p["project"]["dependencies"] + p["project"]["optional-dependencies"]["grpc"])); \
print("\n".join(p["build-system"]["requires"]), file=open("build.txt", "w"))' >dependencies.txt; \
    /build/bin/pip install --quiet $index -r build.txt; \
    /build/bin/pip --python /opt/wukong/bin/python install --quiet $index -r dependencies.txt
COPY README.md LICENSE ./
COPY wukong wukong
RUN /build/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /dist . \
    && /build/bin/pip --python /opt/wukong/bin/python install --quiet --no-deps --no-index /dist/*.whl

FROM ${BASE}
RUN install -d -o 10001 -g 10001 -m 0700 /data /secrets
COPY --from=build /opt/wukong /opt/wukong
COPY deploy/entrypoint /opt/wukong/bin/entrypoint
# Nothing but /data is written, so the root file system may be read-only. Without a configuration file the server would
# serve its API on loopback, where nobody outside the container reaches it.
ENV PATH=/opt/wukong/bin:$PATH PYTHONDONTWRITEBYTECODE=1 HOME=/data \
    WK_ROOTDIR=/data WK_HTTPADDR=0.0.0.0:5001 WK_MODE=release
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 5001 5100 5200 11110
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --retries=3 \
    CMD ["python3", "-m", "wukong.cli.cluster.probe"]
ENTRYPOINT ["entrypoint"]
CMD ["wukong", "serve"]
