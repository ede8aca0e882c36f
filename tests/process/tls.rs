//! Certificates: who is let in, whose renewal counts at once, and what a cluster does with a member that shows the
//! wrong one. The authorities are made here, by rcgen; the client is rustls without the product's checks.
// Helpers of tests are tests too.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate::client::Channel;
use quorate::proto::etcdserverpb as pb;
use quorate::runtime::{Env, Stream};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;

use super::support::{Client, Cluster, Member, PATIENCE, free_port, http_get, run, wait_for};

/// Makes certificates, in a directory of its own.
pub struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "authority");
        let key = KeyPair::generate().unwrap();
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Authority {
            dir,
            issuer: Issuer::new(params, key),
        }
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// Writes `name`.pem and `name`.key: a certificate for loopback with that common name.
    pub fn issue(&self, name: &str, serial: u64) {
        self.issue_for(name, serial, &["localhost", "127.0.0.1"]);
    }

    pub fn issue_for(&self, name: &str, serial: u64, hosts: &[&str]) {
        let hosts = hosts.iter().map(|host| host.to_string()).collect::<Vec<_>>();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn revoke(&self, serials: &[u64]) {
        let now = time::OffsetDateTime::now_utc();
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now,
            next_update: now + time::Duration::days(1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).unwrap();
        fs::write(self.path("crl.der"), list.der()).unwrap();
    }

    /// Flags with a "@" where the directory belongs.
    pub fn flags(&self, flags: &[&str]) -> Vec<String> {
        let dir = self.dir.path().display().to_string();
        flags.iter().map(|flag| flag.replace('@', &dir)).collect()
    }

    /// A client that trusts this authority and shows the named certificate, if any.
    pub fn client(&self, name: Option<&str>) -> ClientConfig {
        self.client_of(name, rustls::ALL_VERSIONS)
    }

    fn client_of(&self, name: Option<&str>, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.path("ca.pem"))).unwrap();
        let builder = ClientConfig::builder_with_protocol_versions(versions).with_root_certificates(roots);
        let mut config = match name {
            None => builder.with_no_client_auth(),
            Some(name) => builder
                .with_client_auth_cert(
                    vec![certificate(&self.path(&format!("{name}.pem")))],
                    PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).unwrap(),
                )
                .unwrap(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}

fn certificate(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}

/// What the server showed, and the client of a connection that serves.
pub struct Connected {
    shown: CertificateDer<'static>,
    pub client: Client,
}

pub async fn connect(env: &Env, address: &str, config: ClientConfig) -> Result<Connected, String> {
    let attempt = async {
        let stream = env.connect(address).await.map_err(|error| error.to_string())?;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default()[0]
            .clone()
            .into_owned();
        let channel = Channel::over(env, Stream::new(stream, address.to_owned()), address).await;
        let mut client = Client::new(channel.map_err(|error| error.to_string())?);
        // With TLS 1.3 a client learns only here that the server did not like its certificate.
        client.try_status(env).await.map_err(|error| error.to_string())?;
        Ok(Connected { shown, client })
    };
    env.timeout(PATIENCE, attempt).await.expect("an answer in time")
}

/// Members that serve clients, and one another, by https alone.
pub fn secure(size: usize, scheme: &str, flags: &[String]) -> Cluster {
    let flags = flags.iter().map(String::as_str).collect::<Vec<_>>();
    let mut cluster = Cluster::new(size, &flags);
    for member in &mut cluster.members {
        for flag in &mut member.flags {
            let peers = flag.starts_with("--listen-peer") || flag.starts_with("--initial");
            if !peers || scheme == "all" {
                *flag = flag.replace("http://", "https://");
            }
        }
    }
    cluster
}

pub fn start(mut cluster: Cluster) -> Cluster {
    cluster.members.iter_mut().for_each(Member::spawn);
    cluster.members.iter_mut().for_each(Member::wait_ready);
    cluster
}

pub const SERVER: [&str; 2] = ["--cert-file=@/server.pem", "--key-file=@/server.key"];

#[test]
fn clients_show_a_certificate_where_an_authority_is_named() {
    run(async |env| {
        let (ours, theirs) = (Authority::new(), Authority::new());
        ours.issue("server", 1);
        ours.issue("alice", 2);
        theirs.issue("mallory", 3);
        // The authority alone is enough to demand one.
        for demand in [
            &["--trusted-ca-file=@/ca.pem"][..],
            &["--trusted-ca-file=@/ca.pem", "--client-cert-auth"],
        ] {
            let cluster = start(secure(1, "clients", &ours.flags(&[&SERVER[..], demand].concat())));
            let address = &cluster.members[0].address;
            let mut alice = connect(&env, address, ours.client(Some("alice"))).await.unwrap();
            alice.client.put(&env, "a", "1").await;
            assert!(connect(&env, address, ours.client(None)).await.is_err());
            let mut stranger = theirs.client(Some("mallory"));
            stranger.dangerous().set_certificate_verifier(Arc::new(Credulous));
            assert!(connect(&env, address, stranger).await.is_err());
            assert!(
                Channel::connect(&env, address, PATIENCE)
                    .await
                    .is_ok_and(|c| c.is_closed())
                    || {
                        let mut plain = cluster.members[0].connect(&env).await;
                        plain.try_status(&env).await.is_err()
                    }
            );
        }
    });
}

#[test]
fn a_certificate_names_its_user() {
    run(async |env| {
        let ours = Authority::new();
        for (serial, name) in ["server", "root", "alice"].into_iter().enumerate() {
            ours.issue(name, serial as u64 + 1);
        }
        let demand = ["--trusted-ca-file=@/ca.pem", "--client-cert-auth"];
        let cluster = start(secure(
            1,
            "clients",
            &ours.flags(&[&SERVER[..], &demand].concat()),
        ));
        let address = &cluster.members[0].address;
        let mut root = connect(&env, address, ours.client(Some("root")))
            .await
            .unwrap()
            .client;
        for name in ["root", "alice"] {
            let request = pb::AuthUserAddRequest {
                name: name.into(),
                options: Some(quorate::proto::authpb::UserAddOptions { no_password: true }),
                ..Default::default()
            };
            root.auth.user_add(request).await.unwrap();
        }
        let grant = pb::AuthUserGrantRoleRequest {
            user: "root".into(),
            role: "root".into(),
        };
        root.auth
            .role_add(pb::AuthRoleAddRequest { name: "root".into() })
            .await
            .unwrap();
        root.auth.user_grant_role(grant).await.unwrap();
        root.auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
        root.put(&env, "a", "1").await;
        // A user without a role; a name that is nobody's.
        let mut alice = connect(&env, address, ours.client(Some("alice")))
            .await
            .unwrap()
            .client;
        let refused = alice.try_put(&env, "a", "2").await.unwrap_err();
        assert_eq!(refused.message(), "etcdserver: permission denied");
        assert_eq!(root.get(&env, "a").await.as_deref(), Some("1"));
    });
}

/// Believes every server.
#[derive(Debug)]
struct Credulous;

impl rustls::client::danger::ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.signature_verification_algorithms.supported_schemes()
    }
}

#[test]
fn what_is_renewed_or_revoked_counts_at_the_next_handshake() {
    run(async |env| {
        let (ours, next) = (Authority::new(), Authority::new());
        ours.issue("server", 1);
        ours.issue("alice", 2);
        ours.issue("bob", 3);
        ours.revoke(&[]);
        let http = free_port();
        let mut flags = ours.flags(&SERVER);
        flags.extend(ours.flags(&[
            "--trusted-ca-file=@/ca.pem",
            "--client-crl-file=@/crl.der",
            &format!("--listen-client-http-urls=https://127.0.0.1:{http}"),
        ]));
        let cluster = start(secure(1, "clients", &flags));
        let address = &cluster.members[0].address;
        let first = connect(&env, address, ours.client(Some("alice"))).await.unwrap();
        ours.issue("server", 4);
        let second = connect(&env, address, ours.client(Some("alice"))).await.unwrap();
        assert_ne!(first.shown, second.shown);
        assert_eq!(second.shown, certificate(&ours.path("server.pem")));

        ours.revoke(&[2]);
        connect(&env, address, ours.client(Some("bob"))).await.unwrap();
        assert!(connect(&env, address, ours.client(Some("alice"))).await.is_err());
        // The second listener is no way round the list.
        let split = format!("127.0.0.1:{http}");
        assert!(
            secure_get(&env, &split, "/version", ours.client(Some("alice")))
                .await
                .is_err()
        );
        assert!(
            secure_get(&env, &split, "/version", ours.client(Some("bob")))
                .await
                .is_ok()
        );

        // Another authority takes over, without a restart.
        next.issue("bob", 9);
        fs::copy(next.path("ca.pem"), ours.path("ca.pem")).unwrap();
        let mut bob = next.client(Some("bob"));
        bob.dangerous().set_certificate_verifier(Arc::new(Credulous));
        connect(&env, address, bob).await.unwrap();
        let mut bob = ours.client(Some("bob"));
        bob.dangerous().set_certificate_verifier(Arc::new(Credulous));
        assert!(connect(&env, address, bob).await.is_err());
    });
}

/// The body of an answer over https.
async fn secure_get(
    env: &Env,
    address: &str,
    path: &str,
    mut config: ClientConfig,
) -> Result<String, String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let exchange = async {
        let stream = env.connect(address).await?;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, stream).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        match stream.read_to_string(&mut answer).await {
            // A peer that closes without TLS's farewell has answered all the same.
            Err(error) if answer.is_empty() => Err(error),
            _ => Ok(answer),
        }
    };
    let answer = env.timeout(PATIENCE, exchange).await.expect("an answer in time");
    answer.map_err(|error| error.to_string())
}

#[test]
fn versions_are_bounded_and_a_port_may_speak_both() {
    run(async |env| {
        let ours = Authority::new();
        ours.issue("server", 1);
        let mut cluster = secure(
            1,
            "clients",
            &ours.flags(&[&SERVER[..], &["--tls-min-version=TLS1.3"]].concat()),
        );
        let address = cluster.members[0].address.clone();
        cluster.members[0]
            .flags
            .push(format!("--listen-client-urls=http://{address},https://{address}"));
        let cluster = start(cluster);
        let new = ours.client_of(None, &[&rustls::version::TLS13]);
        let mut client = connect(&env, &address, new).await.unwrap().client;
        client.put(&env, "a", "1").await;
        let old = ours.client_of(None, &[&rustls::version::TLS12]);
        assert!(connect(&env, &address, old).await.is_err());
        let mut plain = cluster.members[0].connect(&env).await;
        assert_eq!(plain.get(&env, "a").await.as_deref(), Some("1"));
        assert_eq!(http_get(&address, "/health").0, 200);
    });
}

#[test]
fn an_authority_may_show_its_own_certificate() {
    run(async |env| {
        let ours = Authority::new();
        ours.issue("server", 1);
        fs::write(ours.path("itself.pem"), fs::read(ours.path("ca.pem")).unwrap()).unwrap();
        fs::write(ours.path("itself.key"), ours.issuer.key().serialize_pem()).unwrap();
        let demand = ["--trusted-ca-file=@/ca.pem"];
        let cluster = start(secure(
            1,
            "clients",
            &ours.flags(&[&SERVER[..], &demand].concat()),
        ));
        let address = &cluster.members[0].address;
        let mut client = connect(&env, address, ours.client(Some("itself")))
            .await
            .unwrap()
            .client;
        client.put(&env, "a", "1").await;
    });
}

#[test]
fn who_stalls_in_a_handshake_delays_nobody() {
    run(async |env| {
        let ours = Authority::new();
        ours.issue("server", 1);
        let cluster = start(secure(1, "clients", &ours.flags(&SERVER)));
        let address = &cluster.members[0].address;
        let mut stalled = Vec::new();
        for _ in 0..100 {
            stalled.push(env.connect(address).await.unwrap());
        }
        connect(&env, address, ours.client(None)).await.unwrap();
    });
}

/// What kubeadm passes to a member.
const STATIC_POD: [&str; 11] = [
    "--cert-file=@/server.pem",
    "--key-file=@/server.key",
    "--client-cert-auth=true",
    "--trusted-ca-file=@/ca.pem",
    "--peer-cert-file=@/peer.pem",
    "--peer-key-file=@/peer.key",
    "--peer-client-cert-auth=true",
    "--peer-trusted-ca-file=@/ca.pem",
    "--snapshot-count=10000",
    "--feature-gates=InitialCorruptCheck=true",
    "--watch-progress-notify-interval=5s",
];

#[test]
fn three_members_trust_certificates_alone() {
    run(async |env| {
        let ours = Authority::new();
        for (serial, name) in ["server", "peer", "alice"].into_iter().enumerate() {
            ours.issue(name, serial as u64 + 1);
        }
        let mut cluster = secure(3, "all", &ours.flags(&STATIC_POD));
        let metrics = free_port();
        cluster.members[0]
            .flags
            .push(format!("--listen-metrics-urls=http://127.0.0.1:{metrics}"));
        let mut cluster = start(cluster);
        let alice = || ours.client(Some("alice"));
        let mut client = connect(&env, &cluster.members[0].address, alice())
            .await
            .unwrap()
            .client;
        client.put(&env, "a", "1").await;
        for path in ["/livez", "/readyz"] {
            assert_eq!(http_get(&format!("127.0.0.1:{metrics}"), path).0, 200, "{path}");
        }
        // A renewed certificate is taken by the next connection between members.
        ours.issue("peer", 7);
        cluster.members[1].kill();
        client.put(&env, "b", "2").await;
        cluster.members[1].start();
        let mut client = connect(&env, &cluster.members[1].address, alice())
            .await
            .unwrap()
            .client;
        assert_eq!(client.get(&env, "b").await.as_deref(), Some("2"));
    });
}

#[test]
fn a_member_with_the_wrong_name_or_address_is_kept_out() {
    run(async |env| {
        for (demand, wrong) in [
            ("--peer-cert-allowed-cn=peer", "other"),
            ("--peer-client-cert-auth", "elsewhere"),
        ] {
            let ours = Authority::new();
            ours.issue("peer", 1);
            ours.issue("other", 2);
            ours.issue_for("elsewhere", 3, &["192.0.2.1"]);
            let flags = ours.flags(&[
                "--peer-cert-file=@/peer.pem",
                "--peer-key-file=@/peer.key",
                "--peer-client-cert-auth",
                "--peer-trusted-ca-file=@/ca.pem",
                demand,
            ]);
            let mut cluster = secure(3, "all", &flags);
            for member in &mut cluster.members {
                for flag in &mut member.flags {
                    if flag.contains("client-urls") {
                        *flag = flag.replace("https://", "http://");
                    }
                }
            }
            let intruder = ours.flags(&[
                &format!("--peer-cert-file=@/{wrong}.pem"),
                &format!("--peer-key-file=@/{wrong}.key"),
            ]);
            cluster.members[2].flags.extend(intruder);
            cluster.members.iter_mut().for_each(Member::spawn);
            for member in &mut cluster.members[..2] {
                member.wait_ready();
            }
            let mut client = cluster.members[0].connect(&env).await;
            client.put(&env, "a", "1").await;
            wait_for("the refusal to be logged", || {
                let logs = [cluster.members[0].log(), cluster.members[1].log()].concat();
                logs.contains("rejected connection").then_some(())
            });
            assert!(
                !cluster.members[2].log().contains(super::support::READY),
                "{demand}"
            );
        }
    });
}

#[test]
fn certificates_of_ones_own_keep_secrets() {
    run(async |env| {
        let cluster = start(secure(3, "all", &["--auto-tls".into(), "--peer-auto-tls".into()]));
        let ours = Authority::new();
        let mut config = ours.client(None);
        assert!(
            connect(&env, &cluster.members[0].address, config.clone())
                .await
                .is_err()
        );
        config.dangerous().set_certificate_verifier(Arc::new(Credulous));
        let mut client = connect(&env, &cluster.members[0].address, config)
            .await
            .unwrap()
            .client;
        client.put(&env, "a", "1").await;
        for side in ["client", "peer"] {
            let key = cluster.members[0]
                .data_dir
                .join("fixtures")
                .join(side)
                .join("key.pem");
            assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
        }
    });
}

#[test]
fn a_unix_socket_serves_as_a_port_does() {
    run(async |env| {
        let mut cluster = Cluster::new(1, &[]);
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("client.sock").display().to_string();
        let address = cluster.members[0].address.clone();
        cluster.members[0]
            .flags
            .push(format!("--listen-client-urls=http://{address},unix://{path}"));
        let _cluster = start(cluster);
        let stream = env.connect(&format!("unix:{path}")).await.unwrap();
        let mut client = Client::new(Channel::over(&env, stream, "localhost").await.unwrap());
        client.put(&env, "a", "1").await;
        assert_eq!(client.get(&env, "a").await.as_deref(), Some("1"));
    });
}
