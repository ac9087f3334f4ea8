//! `lockgate-operator`: the operator as a process.

mod connection;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bus::Bus;
use clap::Parser;
use lockgate_operator::{Cluster, Config, Operator, health};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::connection::Connection;

/// How long a shutdown may take.
const DRAIN: Duration = Duration::from_secs(10);

const AFTER: &str = "\
The configuration, in TOML (the pods are in Kubernetes' own words, a PodSpec):

  [prefill]                # takes the prefills of `lockgate ... --prefill-executor kubernetes`
  at_once = 5              # Jobs at work; the oldest tasks first
  deadline = \"1h\"          # from release; keep = \"1h\" after the end; retries = 6
  pod.containers = [{ name = \"prefill\", image = \"lockgate:0.1.0\", env = [
    { name = \"LOCKGATE_BUS\", value = \"nats://nats:4222\" } ] }]

  [[queue]]                # Jobs that take their work from a queue themselves
  name = \"makers\"
  stream = \"tabs-orders\"
  consumer = \"makers\"
  floor = 0
  ceiling = 10
  pod.containers = [{ name = \"maker\", image = \"lockgate:0.1.0\", args = [\"flow\", \"medicine\"] }]

It needs the permissions of deploy/operator/role.yaml, and to be one process: `strategy: Recreate`.

Exit codes: 0 told to stop, 1 failed, 2 wrong usage or configuration, 3 bus or cluster did not answer";

/// Work from a queue becomes Kubernetes Jobs: prefills, and whatever else the configuration names.
#[derive(Debug, Parser)]
#[command(name = "lockgate-operator", version, after_help = AFTER)]
struct Options {
    /// What to launch
    #[arg(long, env = "LOCKGATE_OPERATOR_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// The namespace of the Jobs; without it the pod's own, or that of the kubeconfig
    #[arg(long, env = "LOCKGATE_OPERATOR_NAMESPACE", value_name = "NAME")]
    namespace: Option<String>,
    /// Where /livez, /readyz and /metrics are served
    #[arg(
        long,
        env = "LOCKGATE_OPERATOR_LISTEN",
        default_value = "127.0.0.1:8090",
        value_name = "ADDR"
    )]
    listen: SocketAddr,
    /// Names this process in the events that it writes: its pod
    #[arg(long, env = "LOCKGATE_OPERATOR_INSTANCE", value_name = "NAME")]
    instance: Option<String>,
    /// Read the configuration, say what is wrong with it, and end
    #[arg(long)]
    check: bool,
    /// What is logged: `info`, or `lockgate_operator=debug,info` and the like
    #[arg(long, env = "LOCKGATE_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    /// Log one JSON object a line
    #[arg(long, env = "LOCKGATE_LOG_JSON")]
    log_json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// What is printed, and the exit code.
struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    fn new(code: u8, message: impl ToString) -> Self {
        Self { message: message.to_string(), code }
    }
}

impl From<bus::Error> for Failure {
    fn from(error: bus::Error) -> Self {
        Self::new(if error.is_retryable() { 3 } else { 1 }, error)
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = start_log(&options).and_then(|()| {
        // Two clients in one process, of which neither may choose for the other.
        if rustls::crypto::ring::default_provider().install_default().is_err() {
            tracing::debug!("this process has a TLS provider already");
        }
        let runtime = tokio::runtime::Runtime::new().map_err(|error| Failure::new(1, error))?;
        runtime.block_on(run(options))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { message, code }) => {
            eprintln!("error: {message}");
            ExitCode::from(code)
        }
    }
}

fn start_log(options: &Options) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&options.log)
        .map_err(|error| Failure::new(2, format!("--log {:?}: {error}", options.log)))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match options.log_json {
        true => lines.json().init(),
        false => lines.init(),
    }
    Ok(())
}

async fn run(options: Options) -> Result<(), Failure> {
    let config = Config::read(&options.config).map_err(|error| Failure::new(2, error))?;
    if options.check {
        return Ok(());
    }
    let cluster = cluster(&options).await?;
    let listener = TcpListener::bind(options.listen).await.map_err(|error| {
        Failure::new(1, format!("cannot listen on {}: {error}", options.listen))
    })?;
    let (url, connect) = options.connection.options().map_err(|why| Failure::new(2, why))?;
    let bus = Bus::connect_with(url, connect).await?;
    let operator = Operator::new(cluster, bus.clone(), config);
    let stop = CancellationToken::new();
    let (metrics, looked) = (Arc::clone(&operator.metrics), operator.health.clone());
    let (serving, working) = (stop.child_token(), stop.child_token());
    let served = health::serve(listener, metrics, looked, serving.clone());
    let work = async {
        let ended = operator.run(working).await;
        serving.cancel();
        ended
    };
    let asked = async {
        asked_to_stop().await?;
        tracing::info!("stopping: the tasks held are given back, their Jobs go on");
        stop.cancel();
        Ok::<_, std::io::Error>(())
    };
    let all = async { tokio::join!(work, served) };
    tokio::pin!(all);
    let (ended, served) = tokio::select! { biased;
        both = &mut all => both,
        asked = asked => {
            asked.map_err(|error| Failure::new(1, error))?;
            match tokio::time::timeout(DRAIN, all).await {
                Ok(both) => both,
                Err(_) => {
                    tracing::warn!("not drained in time, what is left comes again");
                    return Ok(());
                }
            }
        }
    };
    ended?;
    served.map_err(|error| Failure::new(1, error))?;
    if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(1), bus.close()).await {
        tracing::warn!(%error, "the bus was not closed in order");
    }
    Ok(())
}

async fn cluster(options: &Options) -> Result<Cluster, Failure> {
    let mut config = kube::Config::infer().await.map_err(|error| {
        let way_out = "run it in a pod with a service account, or set KUBECONFIG";
        Failure::new(2, format!("there is no cluster to speak to: {error}\n  {way_out}"))
    })?;
    // The operator repeats by looking anew; a call that repeats itself hides what happened.
    config.default_retry = false;
    let own = config.default_namespace.clone();
    let namespace = options.namespace.clone().unwrap_or(own);
    let client = kube::Client::try_from(config).map_err(|error| Failure::new(2, error))?;
    tracing::info!(namespace, "launching Jobs");
    Ok(Cluster::new(client, &namespace, options.instance.clone()))
}

/// Resolves at the first SIGINT (^C) or SIGTERM from now on.
async fn asked_to_stop() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! { biased;
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_option_is_described_and_the_example_is_a_configuration() {
        Options::command().debug_assert();
        let command = Options::command();
        assert!(command.get_arguments().all(|argument| argument.get_help().is_some()));
        let lines = AFTER.lines().filter(|line| line.starts_with("  "));
        let example: Vec<_> = lines.map(str::trim_start).collect();
        let config = Config::parse(&example.join("\n")).unwrap();
        assert_eq!((config.prefill.is_some(), config.queues.len()), (true, 1));
    }
}
