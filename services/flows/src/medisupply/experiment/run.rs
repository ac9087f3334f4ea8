//! One run, from the first service to the verdict.

use std::time::Duration;

use bus::Bus;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::ledger::Ledger;
use super::load::{due, order, send};
use super::summary::Summary;
use super::timeline::{Observer, Shot, Stretch, Timeline, external};
use super::{Findings, Phase, Plan, Progress, local};
use crate::flow::Failure;
use crate::http::MAX_BODY;
use crate::medisupply::http::{client, ms, now_ms, read_json};
use crate::medisupply::store::{self, Store};
use crate::medisupply::{Fault, Health, Mode, Settings, Site, Status};

/// How long orders have to be decided after recovery, or after they were sent where that is later.
const DRAIN_WITHIN: Duration = Duration::from_secs(60);
/// How long the picture goes on after the last order, so that recovery is in it.
const AFTERGLOW: Duration = Duration::from_secs(1);
/// How long after the fault the monitor may still find out about it.
const SEEN_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const TIDY_WITHIN: Duration = Duration::from_secs(20);

/// Starts the five services in this process, on free ports and under names of their own on `bus`
/// and `state`; sends the plan's orders; lets the external service misbehave during the middle
/// third; and waits until every accepted order is decided, at most 60 s after recovery.
///
/// On return the services have ended and what the run made on the bus is removed, also when `stop`
/// was cancelled, which is an error. `progress` is told how far it is.
pub async fn run(
    bus: &Bus,
    state: &Bus,
    plan: &Plan,
    progress: &watch::Sender<Progress>,
    stop: &CancellationToken,
) -> Result<Findings, Failure> {
    let settings = local::isolated(plan.settings.clone())?;
    let shutdown = CancellationToken::new();
    let site = local::site(bus, state, &settings, shutdown.clone());
    store::prepare(&site).await?;
    let (kill, kills) = mpsc::channel(8);
    let experiment = Experiment { site: site.clone(), plan, progress, kill };
    let measured = async {
        let measured = tokio::select! { biased;
            () = stop.cancelled() => Err(Failure::from("interrupted")),
            // The reason is in what the services return.
            () = shutdown.cancelled() => Err(Failure::from("a service ended")),
            measured = experiment.measure() => measured,
        };
        shutdown.cancel();
        measured
    };
    let (measured, served) = tokio::join!(measured, local::run(site.clone(), kills));
    let tidied = timeout(TIDY_WITHIN, store::remove(&site)).await;
    let killed = served?;
    let mut findings = measured?;
    findings.summary.killed = killed;
    match tidied {
        Ok(Ok(())) => Ok(findings),
        Ok(Err(why)) => {
            Err(format!("{}* may be left on the bus: {why}", site.settings.prefix).into())
        }
        Err(_) => Err(format!("{}* may be left on the bus", site.settings.prefix).into()),
    }
}

struct Experiment<'a> {
    site: Site,
    plan: &'a Plan,
    progress: &'a watch::Sender<Progress>,
    kill: mpsc::Sender<&'static str>,
}

/// What the fault was like.
#[derive(Debug, Clone, Copy)]
struct Faulty {
    from: Duration,
    to: Duration,
    began: Instant,
    recovered: Instant,
    calls: u64,
    detected: Option<(u64, u64)>,
}

impl Experiment<'_> {
    async fn measure(&self) -> Result<Findings, Failure> {
        local::ready(&self.site.settings).await?;
        let store = Store::open(&self.site).await?;
        let observer = Observer::new(&self.site.settings)?;
        self.known(&observer).await?;
        let (ledger, begin, begin_ms) = (Ledger::default(), Instant::now(), now_ms());
        let (shots, faulty) = tokio::select! {
            played = self.play(&ledger, &observer, begin) => played?,
            followed = ledger.follow(&store, self.progress) => {
                followed?;
                return Err("the orders cannot be followed".into());
            }
            () = observer.run(begin) => return Err("the services cannot be observed".into()),
        };
        let end = begin.elapsed();
        let fault = (faulty.from, faulty.to);
        let changes = self.breaker().await?;
        let breaker = strip(&changes, begin_ms, end);
        let timeline = Timeline { shots, samples: observer.take(), breaker, fault, end };
        let mut summary = self.summary(&store, &ledger, &timeline, &faulty, begin).await?;
        count_openings(&mut summary, &changes);
        summary.measure_posts(&timeline.shots);
        let wait = self.plan.settings.breaker.as_ref().map(|config| config.wait);
        summary.judge(self.plan.always_fails(), wait);
        Ok(Findings { summary, timeline })
    }

    /// Waits until the monitor knows the external service to be well.
    async fn known(&self, observer: &Observer) -> Result<(), Failure> {
        let until = Instant::now() + DRAIN_WITHIN;
        while Instant::now() < until {
            let status = observer.status().await;
            if status.as_ref().and_then(external).is_some_and(|one| one.status == Health::Healthy) {
                return Ok(());
            }
            sleep(LOOK_EVERY).await;
        }
        Err("the monitor never found the external service well".into())
    }

    async fn play(
        &self,
        ledger: &Ledger,
        observer: &Observer,
        begin: Instant,
    ) -> Result<(Vec<Shot>, Faulty), Failure> {
        let settings = &self.site.settings;
        let url = settings.url(settings.gateway_port, "/create_order");
        self.phase(Phase::Before);
        let load = send(self.plan, &url, begin, self.progress);
        let (shots, faulty) = tokio::try_join!(load, self.fault(observer, begin))?;
        self.phase(Phase::Draining);
        let accepted = || shots.iter().filter(|shot| shot.accepted);
        let decided = async {
            for shot in accepted() {
                while ledger.get(&order(shot.number).order_id).is_none() {
                    sleep(LOOK_EVERY).await;
                }
            }
        };
        let last = begin + due(self.plan, self.plan.orders);
        let until = faulty.recovered.max(last) + DRAIN_WITHIN;
        // What is not decided by then is lost, and counted so.
        let _ = tokio::time::timeout_at(until, decided).await;
        sleep(AFTERGLOW).await;
        Ok((shots, faulty))
    }

    /// The middle third.
    async fn fault(&self, observer: &Observer, begin: Instant) -> Result<Faulty, Failure> {
        let (plan, third) = (self.plan, self.plan.orders / 3);
        sleep_until(begin + due(plan, third)).await;
        let probes = observer.status().await;
        let probes = probes.as_ref().and_then(external).map_or(0, |external| external.probes);
        let (calls, from, from_ms) = (self.calls(), begin.elapsed(), now_ms());
        let began = Instant::now();
        self.set(plan.fault).await?;
        self.phase(Phase::Fault);
        let to = begin + due(plan, third * 2);
        let detected = async {
            loop {
                let status = observer.status().await;
                let external = status.as_ref().and_then(external);
                if let Some(now) = external.filter(|one| one.status != Health::Healthy) {
                    let after = now.since_ms.saturating_sub(from_ms);
                    return (after, now.changed_at_probe.saturating_sub(probes));
                }
                sleep(LOOK_EVERY).await;
            }
        };
        let killed = async {
            sleep_until(begin + due(plan, third + third / 2)).await;
            for role in &plan.kill {
                self.kill.send(role).await?;
            }
            Ok::<_, Failure>(())
        };
        let over = async {
            sleep_until(to).await;
            let calls = self.calls().saturating_sub(calls);
            self.set(Mode::Normal.into()).await?;
            self.phase(Phase::After);
            Ok::<_, Failure>((calls, begin.elapsed(), Instant::now()))
        };
        // A probe that begins during the fault may end after it.
        let until = if plan.always_fails() { to + SEEN_WITHIN } else { to };
        let detected = async { Ok(tokio::time::timeout_at(until, detected).await.ok()) };
        let (detected, (), over) = tokio::try_join!(detected, killed, over)?;
        let (calls, to, recovered) = over;
        Ok(Faulty { from, to, began, recovered, calls, detected })
    }

    async fn set(&self, fault: Fault) -> Result<(), Failure> {
        let settings = &self.site.settings;
        let url = settings.url(settings.control_port, "/set_failure_mode");
        let answer = client()?.post(url).json(&fault).send().await?;
        answer.error_for_status()?;
        Ok(())
    }

    fn calls(&self) -> u64 {
        self.site.settings.figures.calls.get()
    }

    fn phase(&self, phase: Phase) {
        self.progress.send_modify(|progress| progress.phase = phase);
    }

    async fn summary(
        &self,
        store: &Store,
        ledger: &Ledger,
        timeline: &Timeline,
        faulty: &Faulty,
        begin: Instant,
    ) -> Result<Summary, Failure> {
        let plan = self.plan;
        let mut summary =
            Summary { mode: plan.fault.mode, sent: plan.orders, ..Summary::default() };
        let mut longest = Duration::ZERO;
        for shot in timeline.shots.iter().filter(|shot| shot.accepted) {
            let sent = order(shot.number);
            let stands = store.get(&sent.order_id).await?;
            let seen = ledger.get(&sent.order_id);
            let status = stands.as_ref().map_or(Status::Processing, |order| order.status);
            let changes = stands.map_or(0, |order| order.changes);
            summary.accepted += 1;
            match status {
                Status::Processing => summary.lost += 1,
                Status::Validated => summary.validated += 1,
                Status::Rejected => summary.rejected += 1,
                Status::Failed => summary.failed += 1,
            }
            let times = seen.map_or(0, |seen| seen.times).max(changes);
            summary.duplicated += times.saturating_sub(1);
            summary.wrong += u32::from(status != Status::Processing && status != due_status(&sent));
            let open = seen.is_none_or(|seen| seen.at >= faulty.began);
            summary.orders_in_fault += u32::from(shot.at < faulty.to && open);
            let from = faulty.recovered.max(begin + shot.at);
            longest = seen.map_or(longest, |seen| longest.max(seen.at.duration_since(from)));
        }
        let figures = &self.site.settings.figures;
        summary.parked = figures.parked.get();
        summary.calls_in_fault = faulty.calls;
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52 calls")]
        let calls = faulty.calls as f64 / f64::from(summary.orders_in_fault.max(1));
        summary.calls_per_order = (calls * 1000.0).round() / 1000.0;
        summary.detected_ms = faulty.detected.map(|(ms, _)| ms);
        summary.detected_probes = faulty.detected.map(|(_, probes)| probes);
        summary.drained_ms = ms(longest);
        Ok(summary)
    }

    /// The changes of the breaker, from the worker's own book.
    async fn breaker(&self) -> Result<Vec<BreakerChange>, Failure> {
        let Settings { validation_port, .. } = self.site.settings;
        let url = self.site.settings.url(validation_port, "/breaker");
        let book = read_json(client()?.get(url).send().await?, MAX_BODY).await?;
        Ok(serde_json::from_value(book)?)
    }
}

#[derive(Debug, serde::Deserialize)]
struct BreakerChange {
    to: String,
    at_ms: u64,
}

/// The stretches between the changes; closed before the first.
fn strip(changes: &[BreakerChange], begin_ms: u64, end: Duration) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::new();
    if !changes.is_empty() {
        stretches.push(Stretch { what: "closed".into(), from: Duration::ZERO, to: end });
    }
    for change in changes {
        let at = Duration::from_millis(change.at_ms.saturating_sub(begin_ms)).min(end);
        if let Some(last) = stretches.last_mut() {
            last.to = at;
        }
        stretches.push(Stretch { what: change.to.clone(), from: at, to: end });
    }
    stretches
}

fn count_openings(summary: &mut Summary, changes: &[BreakerChange]) {
    let openings = changes.iter().filter(|change| change.to == "open").count();
    summary.breaker_opened = u32::try_from(openings).unwrap_or(u32::MAX);
    let open = changes.windows(2).filter(|pair| pair[0].to == "open");
    summary.breaker_shortest_open_ms =
        open.map(|pair| pair[1].at_ms.saturating_sub(pair[0].at_ms)).min();
}

/// How an order is decided when it is.
fn due_status(order: &crate::medisupply::NewOrder) -> Status {
    match order.quantity {
        0 => Status::Failed,
        1..=1000 => Status::Validated,
        _ => Status::Rejected,
    }
}
