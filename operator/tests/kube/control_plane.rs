//! etcd, kube-apiserver and kube-controller-manager on free ports, stopped by their own pids.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bus::testkit::free_port;
use http::{HeaderName, HeaderValue, Request};
use kube::{Client, Config};
use serde_json::{Value, json};

/// What a wait ends with at the latest, on a slow machine too.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);
const ADMIN: &str = "admin-of-the-test";
const CONTROLLERS: &str = "controllers-of-the-test";

pub(crate) struct ControlPlane {
    folder: tempfile::TempDir,
    servers: PathBuf,
    etcd_port: u16,
    pub(crate) port: u16,
    etcd: Server,
    api: Option<Server>,
    controllers: Option<Server>,
}

/// A process that ends with its owner.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl ControlPlane {
    /// Starts all three, and waits until they answer.
    pub(crate) async fn start() -> Self {
        let servers = std::env::var_os("LOCKGATE_KUBE").map(PathBuf::from);
        let servers = servers.expect("LOCKGATE_KUBE is not set: run make test-kube");
        for name in ["etcd", "kube-apiserver", "kube-controller-manager"] {
            let path = servers.join(name);
            assert!(path.exists(), "{} is missing: run make test-kube", path.display());
        }
        let folder = tempfile::tempdir().unwrap();
        // The API server takes no private key of this form for a public one.
        let key = rcgen::KeyPair::generate().unwrap();
        fs::write(folder.path().join("sa.key"), key.serialize_pem()).unwrap();
        fs::write(folder.path().join("sa.pub"), key.public_key_pem()).unwrap();
        let tokens = format!(
            "{ADMIN},admin,1,system:masters\n{CONTROLLERS},system:kube-controller-manager,2\n"
        );
        fs::write(folder.path().join("tokens.csv"), tokens).unwrap();
        let (etcd_port, peers, port) =
            (free_port().unwrap(), free_port().unwrap(), free_port().unwrap());
        let etcd = start_etcd(&servers, folder.path(), etcd_port, peers);
        let mut plane =
            Self { folder, servers, etcd_port, port, etcd, api: None, controllers: None };
        plane.start_api().await;
        plane.start_controllers();
        plane
    }

    pub(crate) async fn start_api(&mut self) {
        let own = |name: &str| self.folder.path().join(name).display().to_string();
        let args = [
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            String::from("--bind-address=127.0.0.1"),
            format!("--secure-port={}", self.port),
            format!("--cert-dir={}", own("certs")),
            format!("--token-auth-file={}", own("tokens.csv")),
            String::from("--authorization-mode=Node,RBAC"),
            String::from("--service-account-issuer=https://kubernetes.default.svc"),
            format!("--service-account-key-file={}", own("sa.pub")),
            format!("--service-account-signing-key-file={}", own("sa.key")),
            String::from("--service-cluster-ip-range=10.0.0.0/24"),
        ];
        self.api = Some(start(&self.servers, self.folder.path(), "kube-apiserver", &args));
        let admin = self.admin();
        let started = Instant::now();
        while ready(&admin).await.is_err() {
            let server = &mut self.api.as_mut().unwrap().0;
            let ended = server.try_wait().unwrap();
            let log = || fs::read_to_string(self.folder.path().join("kube-apiserver.log"));
            assert!(ended.is_none() && started.elapsed() < LIMIT, "not ready: {}", log().unwrap());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Kills the API server: calls that are under way are never answered.
    pub(crate) fn stop_api(&mut self) {
        self.api = None;
    }

    fn start_controllers(&mut self) {
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port), "insecure-skip-tls-verify": true}}],
            "users": [{"name": "u", "user": {"token": CONTROLLERS}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        let own = |name: &str| self.folder.path().join(name).display().to_string();
        fs::write(own("controllers.json"), kubeconfig.to_string()).unwrap();
        let args = [
            format!("--kubeconfig={}", own("controllers.json")),
            format!("--service-account-private-key-file={}", own("sa.key")),
            String::from("--use-service-account-credentials"),
            String::from("--leader-elect=false"),
            format!("--cert-dir={}", own("controller-certs")),
            String::from("--bind-address=127.0.0.1"),
            format!("--secure-port={}", free_port().unwrap()),
        ];
        let name = "kube-controller-manager";
        self.controllers = Some(start(&self.servers, self.folder.path(), name, &args));
    }

    /// Somebody who may do everything.
    pub(crate) fn admin(&self) -> Client {
        self.client(ADMIN)
    }

    /// Whoever holds this token.
    pub(crate) fn client(&self, token: &str) -> Client {
        let url = format!("https://127.0.0.1:{}", self.port).parse().unwrap();
        let mut config = Config::new(url);
        config.accept_invalid_certs = true;
        config.default_retry = false;
        config.connect_timeout = Some(Duration::from_secs(5));
        let bearer = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
        config.headers.push((HeaderName::from_static("authorization"), bearer));
        Client::try_from(config).unwrap()
    }

    /// The pids of the servers, to see that they have ended.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let others = [&self.api, &self.controllers].into_iter().flatten();
        std::iter::once(&self.etcd).chain(others).map(|server| server.0.id()).collect()
    }
}

async fn ready(client: &Client) -> Result<String, kube::Error> {
    client.request_text(Request::get("/readyz").body(Vec::new()).unwrap()).await
}

fn start_etcd(servers: &Path, folder: &Path, clients: u16, peers: u16) -> Server {
    let (clients, peers) =
        (format!("http://127.0.0.1:{clients}"), format!("http://127.0.0.1:{peers}"));
    let args = [
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=default={peers}"),
        String::from("--unsafe-no-fsync"),
    ];
    start(servers, folder, "etcd", &args)
}

fn start(servers: &Path, folder: &Path, name: &str, args: &[String]) -> Server {
    let log = File::options().append(true).create(true).open(folder.join(format!("{name}.log")));
    let log = log.unwrap();
    let child = Command::new(servers.join(name))
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    Server(child)
}

/// Makes what a YAML file describes, in a namespace.
pub(crate) async fn apply(client: &Client, namespace: &str, yaml: &str) {
    for document in yaml.split("\n---\n") {
        let kind = document.lines().find_map(|line| line.strip_prefix("kind: ")).unwrap().trim();
        let (group, plural) = match kind {
            "Role" => ("/apis/rbac.authorization.k8s.io/v1", "roles"),
            "RoleBinding" => ("/apis/rbac.authorization.k8s.io/v1", "rolebindings"),
            "ServiceAccount" => ("/api/v1", "serviceaccounts"),
            other => panic!("{other} is not of a namespace"),
        };
        let document = document.replace("namespace: lockgate", &format!("namespace: {namespace}"));
        let request = Request::post(format!("{group}/namespaces/{namespace}/{plural}"))
            .header("content-type", "application/yaml")
            .body(document.into_bytes())
            .unwrap();
        client.request::<Value>(request).await.unwrap();
    }
}
