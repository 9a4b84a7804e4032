//! TLS to receivers: the system's certificate authorities and, if set, one file of additional ones.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::{Config, Error};

/// The settings of every handshake. The crypto provider is named, so that no process-wide default decides.
pub(super) fn config(config: &Config) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Error::Tls)?
        .with_root_certificates(roots(config.extra_ca_file.as_deref())?)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(tls))
}

fn roots(extra: Option<&Path>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "cannot read one of the system's certificate authorities");
    }
    roots.add_parsable_certificates(native.certs);
    if let Some(path) = extra {
        add_file(&mut roots, path).map_err(|reason| Error::ExtraCa { path: path.to_owned(), reason })?;
    }
    if roots.is_empty() {
        // Not an error: receivers by plain HTTP need none, and minimal images have none.
        tracing::warn!("no certificate authorities found: every https:// receiver will be rejected");
    }
    Ok(roots)
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let before = roots.len();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| e.to_string())? {
        let certificate = certificate.map_err(|e| e.to_string())?;
        roots.add(certificate).map_err(|e| e.to_string())?;
    }
    if roots.len() == before { Err("it contains no certificate".to_owned()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_authorities_must_hold_one() {
        let check = |content: Option<&str>, expected: Option<&str>| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("ca.pem");
            if let Some(content) = content {
                std::fs::write(&path, content).unwrap();
            }
            let built = super::config(&Config { extra_ca_file: Some(path), ..Config::default() });
            let error = built.err().map(|e| e.to_string());
            assert_eq!(error.is_some(), expected.is_some(), "{error:?}");
            assert!(error.unwrap_or_default().contains(expected.unwrap_or_default()));
        };
        let authority = rcgen::generate_simple_self_signed(["ca.test".to_owned()]).unwrap();
        check(Some(&authority.cert.pem()), None);
        check(Some("no certificate in here"), Some("no certificate"));
        check(Some("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"), Some("EXTRA_CA_FILE"));
        check(None, Some("EXTRA_CA_FILE"));
    }
}
