//! `lockgate demo`: the whole of Lockgate on a free port, the demo against it over HTTP, and
//! nothing of it left behind.

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use super::serve::{ServeOptions, close};
use crate::demo::{self, DemoNames, DemoOptions};
use crate::limits::DRAIN;
use crate::roles::Role;
use crate::store::Store;

/// A demo publishes 200,000 changes at most, which take less.
const LOG_MAX_BYTES: u64 = 256 << 20;

/// `lockgate demo`
#[derive(Debug, Args)]
pub(super) struct Demo {
    #[command(flatten)]
    demo: DemoOptions,
    /// The bus to run on: `embedded:`, `embedded:///path` or `nats://host:port`
    #[arg(long, env = "LOCKGATE_BUS", default_value = "embedded:", value_name = "URL")]
    bus: String,
}

impl Demo {
    /// Plays until it is over or `stop` is cancelled; what it made is gone when this returns, or
    /// named in the error.
    pub(super) async fn run(self, stop: CancellationToken) -> Result<(), Failure> {
        let Self { demo, bus } = self;
        let names = DemoNames::fresh()?;
        let ended = CancellationToken::new();
        let options = ServeOptions::local(bus, LOG_MAX_BYTES);
        let serving = options.start(&Role::ALL, &ended).await?;
        let (server, store) = (format!("http://{}", serving.addr), serving.store().clone());
        let played = async {
            let played = tokio::select! { biased;
                () = stop.cancelled() => Err(Failure::interrupted()),
                // The reason is in what the roles return.
                () = ended.cancelled() => Err(Failure::interrupted()),
                played = demo::run(&demo, &names, &server) => played.map_err(Failure::from),
            };
            ended.cancel();
            played
        };
        // Nobody publishes any more once the roles have stopped, so that nothing comes back.
        let (played, served) = tokio::join!(played, serving.serve(ended.clone()));
        let removed = remove(&names, &store).await;
        close(&store).await;
        served?;
        let passed = played?;
        removed?;
        match passed {
            true => Ok(()),
            false => {
                Err(Failure::new("a promise was broken: please report the seed and the verdict"))
            }
        }
    }
}

async fn remove(names: &DemoNames, store: &Store) -> Result<(), Failure> {
    let why = match tokio::time::timeout(DRAIN, names.remove(store)).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no end within {} s", DRAIN.as_secs()),
    };
    let what = format!("{names} of this demo may be left on the bus: {why}");
    eprintln!("warning: {what}");
    Err(Failure::unavailable(what))
}
