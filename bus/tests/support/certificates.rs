//! An authority of a test's own, with certificates for a server on 127.0.0.1 and for a client.

use std::fs;
use std::path::PathBuf;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair,
};
use tempfile::TempDir;

/// PEM files; they are gone with this.
pub(crate) struct Certificates {
    folder: TempDir,
}

impl Certificates {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority for tests");
        let authority = params.self_signed(&key).unwrap();
        fs::write(folder.path().join("roots.pem"), authority.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        let certificates = Self { folder };
        let (server, client) =
            (ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth);
        // A broker is a client of brokers too.
        for (name, usages) in [("server", vec![server, client.clone()]), ("client", vec![client])] {
            let (certificate, key) = issue(&issuer, name, usages);
            fs::write(certificates.file(&format!("{name}.pem")), certificate.pem()).unwrap();
            fs::write(certificates.file(&format!("{name}-key.pem")), key.serialize_pem()).unwrap();
            let both = certificate.pem() + &key.serialize_pem();
            fs::write(certificates.file(&format!("{name}-both.pem")), both).unwrap();
        }
        certificates
    }

    /// `roots.pem`, `server.pem`, `server-key.pem`, `client.pem`, `client-key.pem`, and the pairs in
    /// one file as `server-both.pem` and `client-both.pem`.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn issue(
    issuer: &Issuer<'_, KeyPair>,
    name: &str,
    usages: Vec<ExtendedKeyUsagePurpose>,
) -> (Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let names = [String::from("127.0.0.1"), String::from("localhost")];
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = usages;
    (params.signed_by(&key, issuer).unwrap(), key)
}
