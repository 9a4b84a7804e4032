# Builds the service and leaves the binary in a small image. Wants BuildKit, for the caches of the registry and of what
# was compiled.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
COPY . .
# The queries are checked against the committed .sqlx: there is no database here.
ENV SQLX_OFFLINE=true
# The cache is gone after this step, so the binary is copied out of it within the step.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin xtwebhooks \
    && cp target/release/xtwebhooks /usr/local/bin/xtwebhooks

FROM debian:bookworm-slim
# The roots by which receivers' certificates are judged.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /usr/local/bin/xtwebhooks /usr/local/bin/xtwebhooks
# By number, so that Kubernetes can tell that it is not root. Nobody's: the service writes no file.
USER 65532:65532
# The API; health and metrics.
EXPOSE 20437 20438
ENTRYPOINT ["xtwebhooks"]
CMD ["run"]
