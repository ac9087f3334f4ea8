//! The services of a run, in this process: started, killed on request, joined.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bus::Bus;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::flow::Failure;
use crate::medisupply::http::{client, now_ms};
use crate::medisupply::{Settings, Site, external, gateway, monitor, orders, store, validation};

/// Below the ports that systems hand out by themselves: a connection that somebody opens could
/// otherwise sit on the port of a service that is down.
const FIRST_PORT: u32 = 18_000;
const PORTS: u32 = 14_000;
const READY_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The same settings with free ports of this machine, and names that nothing else has.
pub fn isolated(settings: Settings) -> Result<Settings, Failure> {
    static RUN: AtomicU32 = AtomicU32::new(0);
    let run = RUN.fetch_add(1, Ordering::Relaxed);
    Ok(Settings {
        prefix: format!("medisupply-{:x}-{:x}-{run}", now_ms(), std::process::id()),
        gateway_port: free_port()?,
        order_port: free_port()?,
        validation_port: free_port()?,
        external_port: free_port()?,
        control_port: free_port()?,
        monitor_port: free_port()?,
        figures: Default::default(),
        ..settings
    })
}

fn free_port() -> Result<u16, Failure> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(131);
    for _ in 0..PORTS {
        let step = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS;
        let port = u16::try_from(FIRST_PORT + step).unwrap_or(u16::MAX);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err("no port of 127.0.0.1 is free for the experiment: end what uses them".into())
}

type Run = fn(Site) -> BoxFuture<'static, Result<(), Failure>>;

const ROLES: [(&str, Run); 5] = [
    ("external", |site| Box::pin(external::run(site))),
    ("orders", |site| Box::pin(orders::run(site))),
    ("validation", |site| Box::pin(validation::run(site))),
    ("monitor", |site| Box::pin(monitor::run(site))),
    ("gateway", |site| Box::pin(gateway::run(site))),
];

/// Runs all five until the site's shutdown. Whoever is named on `kills` is aborted in the middle of
/// what it does and started again; returns how many were. A name that none has is a failure, and so
/// is a role that ends by itself; then the others are stopped too.
pub(super) async fn run(
    site: Site,
    mut kills: mpsc::Receiver<&'static str>,
) -> Result<u32, Failure> {
    let mut tasks = JoinSet::new();
    let start = |tasks: &mut JoinSet<_>, name: &'static str, role: Run| {
        let work = role(site.clone());
        tasks.spawn(async move { (name, work.await) })
    };
    let mut running: BTreeMap<&str, AbortHandle> = BTreeMap::new();
    for (name, role) in ROLES {
        running.insert(name, start(&mut tasks, name, role));
    }
    let (mut killed, mut outcome) = (0, Ok(()));
    loop {
        tokio::select! { biased;
            () = site.shutdown.cancelled() => break,
            Some(name) = kills.recv() => {
                let Some((name, role)) = ROLES.into_iter().find(|(known, _)| *known == name) else {
                    outcome = Err(format!("there is no role {name} to kill").into());
                    break;
                };
                if let Some(handle) = running.get(name) {
                    handle.abort();
                    // Over before it starts again: its port must be free.
                    while !handle.is_finished() {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
                running.insert(name, start(&mut tasks, name, role));
                killed += 1;
            }
            Some(ended) = tasks.join_next() => match ended {
                Err(aborted) if aborted.is_cancelled() => {}
                Err(panicked) => outcome = Err(Failure::from(panicked)),
                Ok((name, Ok(()))) => outcome = Err(format!("{name} ended by itself").into()),
                Ok((name, Err(why))) => outcome = Err(format!("{name} ended: {why}").into()),
            },
        }
        if outcome.is_err() {
            break;
        }
    }
    site.shutdown.cancel();
    while tasks.join_next().await.is_some() {}
    outcome.map(|()| killed)
}

/// Runs the five services in this process, on the loopback address, until `shutdown` is cancelled;
/// what they stand on is made first. The first that fails stops the others.
pub async fn serve(
    bus: &Bus,
    state: &Bus,
    settings: &Settings,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let site = site(bus, state, settings, shutdown);
    store::prepare(&site).await?;
    let (_kill, kills) = mpsc::channel(1);
    run(site, kills).await.map(|_| ())
}

pub(super) fn site(
    bus: &Bus,
    state: &Bus,
    settings: &Settings,
    shutdown: CancellationToken,
) -> Site {
    let (bus, state, settings) = (bus.clone(), state.clone(), settings.clone());
    Site { bus, state, listen: Ipv4Addr::LOCALHOST.into(), shutdown, settings, told: None }
}

/// Waits until every service answers, at most 30 s.
pub async fn ready(settings: &Settings) -> Result<(), Failure> {
    let (client, until) = (client()?, Instant::now() + READY_WITHIN);
    let Settings { gateway_port, order_port, validation_port, external_port, .. } = *settings;
    for port in [gateway_port, order_port, validation_port, external_port, settings.monitor_port] {
        let url = settings.url(port, "/health");
        while !client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
            if Instant::now() >= until {
                return Err(format!("nothing answered at {url} within {READY_WITHIN:?}").into());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    Ok(())
}
