//! Asks a server for its version, which lapin does not expose.
//!
//! A server introduces itself before the login, so a separate connection reads that introduction and closes.

use futures_util::{AsyncReadExt, AsyncWriteExt};
use lapin::{
    protocol::{AMQPClass, connection::AMQPMethod, parse_class},
    tcp::{AMQPUriTcpExt, TLSConfig},
    types::{AMQPValue, FieldTable},
    uri::AMQPUri,
};

use super::Error;

/// The oldest RabbitMQ with TTL and at-least-once dead-lettering of quorum queues.
const OLDEST: (u64, u64) = (3, 10);

/// The longest introduction that is read; RabbitMQ's has some 500 bytes.
const START_BYTES_MAX: usize = 64 * 1024;

/// What a client sends first: AMQP 0-9-1.
const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\0\0\x09\x01";

/// Type, channel and size come before a frame's content, and one byte after it.
const FRAME_HEADER_BYTES: usize = 7;

/// Refuses a RabbitMQ that is too old, and returns its version. A server that does not say what it is passes; the
/// declarations will show.
pub(super) async fn check(uri: &AMQPUri) -> Result<Option<String>, Error> {
    let introduction = introduction(uri).await.map_err(|error| Error::Unreachable(error.to_string()))?;
    let Some(properties) = introduction else { return Ok(None) };
    if text(&properties, "product").as_deref() != Some("RabbitMQ") {
        return Ok(None);
    }
    match text(&properties, "version") {
        Some(found) if is_too_old(&found) => Err(Error::TooOld { found }),
        found => {
            tracing::debug!(version = found.as_deref().unwrap_or("unknown"), "the server is RabbitMQ");
            Ok(found)
        }
    }
}

async fn introduction(uri: &AMQPUri) -> std::io::Result<Option<FieldTable>> {
    let runtime = lapin::runtime::default_runtime().map_err(std::io::Error::other)?;
    let mut stream = uri.connect_with_config_async(TLSConfig::default(), &runtime).await?;
    stream.write_all(PROTOCOL_HEADER).await?;
    stream.flush().await?;
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let [_, _, _, size @ ..] = header;
    let size = u32::from_be_bytes(size) as usize;
    if size > START_BYTES_MAX {
        return Ok(None);
    }
    let mut content = vec![0; size];
    stream.read_exact(&mut content).await?;
    Ok(match parse_class(content.as_slice()) {
        Ok((_, AMQPClass::Connection(AMQPMethod::Start(start)))) => Some(start.server_properties),
        _ => None,
    })
}

fn text(properties: &FieldTable, name: &str) -> Option<String> {
    match properties.inner().get(name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        _ => None,
    }
}

fn is_too_old(version: &str) -> bool {
    let mut parts = version.split(['.', '-', '+']).map(str::parse::<u64>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < OLDEST,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_before_3_10_are_too_old() {
        let check = |version: &str, expected: bool| assert_eq!(is_too_old(version), expected, "{version}");
        check("3.8.34", true);
        check("3.9.29", true);
        check("3.10.0", false);
        check("3.13.7", false);
        check("4.0", false);
        check("4.1.0-beta.2", false);
        check("10.1.0", false);
        check("somebody's build", false);
    }
}
