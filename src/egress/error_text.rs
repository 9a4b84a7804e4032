//! Describes network errors for the person who runs the receiver.
//!
//! Only what the network reported goes in: no header, no body, no secret.

use std::{error::Error, io, net::SocketAddr, time::Duration};

use rustls::{AlertDescription, CertificateError, Error as TlsError};

/// Why a TCP connection failed.
pub(super) fn connect(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("{address} refused the connection"),
        io::ErrorKind::ConnectionReset => format!("{address} reset the connection while it was being opened"),
        io::ErrorKind::TimedOut => format!("{address} did not answer"),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            format!("there is no route to {address}")
        }
        _ => format!("no connection to {address}: {error}"),
    }
}

/// That connecting took too long.
pub(super) fn connect_timeout(addresses: &[SocketAddr], limit: Duration) -> String {
    let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    format!("{} did not accept a connection within {limit:?}", list.join(", "))
}

/// Why a TLS handshake failed.
pub(super) fn handshake(error: &io::Error) -> String {
    match (find::<TlsError>(error), error.kind()) {
        (Some(tls), _) => tls_error(tls),
        (None, io::ErrorKind::UnexpectedEof) => {
            "the connection was closed during the TLS handshake".to_owned()
        }
        (None, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
            "the connection was reset during the TLS handshake".to_owned()
        }
        _ => error.to_string(),
    }
}

/// The TLS error within an error, if there is one.
pub(super) fn tls(error: &(dyn Error + 'static)) -> Option<String> {
    find::<TlsError>(error).map(tls_error)
}

fn tls_error(error: &TlsError) -> String {
    match error {
        TlsError::InvalidCertificate(certificate) => certificate_error(certificate),
        TlsError::AlertReceived(alert) => {
            format!("the server rejected it with the alert {}", alert_words(*alert))
        }
        TlsError::InvalidMessage(_) => "the server does not speak TLS on this port".to_owned(),
        other => other.to_string(),
    }
}

fn certificate_error(error: &CertificateError) -> String {
    let words = match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "is not valid yet",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "is for another name"
        }
        CertificateError::UnknownIssuer => {
            "is from an unknown issuer, or the server does not send an intermediate certificate"
        }
        CertificateError::Revoked => "has been revoked",
        CertificateError::BadSignature => "has an invalid signature",
        CertificateError::BadEncoding => "cannot be read",
        other => return format!("the server's certificate is invalid: {other}"),
    };
    format!("the server's certificate {words}")
}

fn alert_words(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnrecognisedName => "unrecognised name".to_owned(),
        AlertDescription::HandshakeFailure => "handshake failure".to_owned(),
        AlertDescription::ProtocolVersion => "protocol version".to_owned(),
        AlertDescription::CertificateRequired => "certificate required".to_owned(),
        other => format!("{other:?}"),
    }
}

/// How a connection broke before the first byte of an answer, as what the other side did.
pub(super) fn broken(error: &hyper::Error) -> String {
    match io_kind(error) {
        Some(io::ErrorKind::ConnectionReset) => "reset the connection before it answered".to_owned(),
        Some(io::ErrorKind::BrokenPipe) => {
            "closed the connection while the request was being sent".to_owned()
        }
        Some(io::ErrorKind::TimedOut) => "stopped responding".to_owned(),
        Some(_) | None if closed(error) => "closed the connection without an answer".to_owned(),
        _ => format!("broke the connection before an answer: {}", deepest(error)),
    }
}

/// How an answer broke off, or why it is not valid.
pub(super) fn cut(error: &hyper::Error) -> String {
    if error.is_parse_too_large() {
        return "the answer's headers are too large or too many".to_owned();
    }
    if error.is_parse() {
        return format!("the answer is not HTTP/1.1: {}", deepest(error));
    }
    match io_kind(error) {
        Some(io::ErrorKind::ConnectionReset) => {
            "the connection was reset in the middle of the answer".to_owned()
        }
        Some(_) | None if closed(error) => "the connection was closed in the middle of the answer".to_owned(),
        _ => format!("the answer broke off: {}", deepest(error)),
    }
}

fn closed(error: &hyper::Error) -> bool {
    error.is_incomplete_message()
        || error.is_closed()
        || error.is_canceled()
        || io_kind(error) == Some(io::ErrorKind::UnexpectedEof)
}

fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    find::<io::Error>(error).map(io::Error::kind)
}

/// The first error of a type in a chain. An `io::Error` hides what it wraps from `source`, so it is unwrapped.
fn find<'e, E: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e E> {
    if let Some(found) = error.downcast_ref() {
        return Some(found);
    }
    let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    match inside {
        Some(inside) => find(inside),
        None => error.source().and_then(find),
    }
}

/// The innermost message: the outer ones only say that something failed.
fn deepest(error: &hyper::Error) -> String {
    let mut last: &(dyn Error + 'static) = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_failed_connection_names_the_address() {
        let check = |kind: io::ErrorKind, expected: &str| {
            let address = SocketAddr::from(([203, 0, 113, 9], 443));
            assert_eq!(connect(address, &kind.into()), expected);
        };
        check(io::ErrorKind::ConnectionRefused, "203.0.113.9:443 refused the connection");
        check(io::ErrorKind::TimedOut, "203.0.113.9:443 did not answer");
        check(io::ErrorKind::NetworkUnreachable, "there is no route to 203.0.113.9:443");
    }

    #[test]
    fn a_failed_handshake_says_what_is_wrong_with_the_certificate() {
        let check = |tls: TlsError, expected: &str| {
            let text = handshake(&io::Error::new(io::ErrorKind::InvalidData, tls));
            assert!(text.contains(expected), "{text}");
        };
        check(CertificateError::Expired.into(), "certificate has expired");
        check(CertificateError::NotValidForName.into(), "certificate is for another name");
        check(CertificateError::UnknownIssuer.into(), "certificate is from an unknown issuer");
        check(TlsError::AlertReceived(AlertDescription::UnrecognisedName), "alert unrecognised name");
        check(TlsError::InvalidMessage(rustls::InvalidMessage::InvalidContentType), "does not speak TLS");
    }

    #[test]
    fn an_error_is_found_beneath_its_wrappings() {
        let tls = TlsError::General("x".to_owned());
        let wrapped = io::Error::other(io::Error::other(Arc::new(io::Error::other(tls.clone()))));
        // An `Arc` is opaque; only what can be looked into is found.
        assert!(find::<TlsError>(&wrapped).is_none());
        let wrapped = io::Error::other(io::Error::other(tls));
        assert!(find::<TlsError>(&wrapped).is_some());
    }
}
