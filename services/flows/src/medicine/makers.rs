//! Makers as the orders come: starts one-shot makers for the backlog, as KEDA starts Jobs, and keeps
//! what came of it.

use std::process::{Command, Stdio};
use std::time::Duration;

use bus::{Bus, ErrorKind};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::maker::{self, Ended};
use super::plot;
use super::scaling::{History, Phase, Sample, to_start};
use super::{MAKERS, ORDERS, PLOT, POLL, SCALE, consumer};
use crate::flow::{Context, Failure, Launch};

/// As many at once where nothing else is said.
const MOST: u64 = 32;
/// Makers that fail in a row before their failure is this role's.
const FAILURES: u32 = 20;

/// What a run comes to.
#[derive(Default)]
struct Run {
    history: History,
    phase: Option<Phase>,
    /// Since the last sample.
    now: Sample,
    failures: u32,
}

/// Starts makers until the shutdown, or until the patients of this process are done and everything
/// they ordered is made. Returns when no maker is left.
pub(super) async fn run(context: Context) -> Result<(), Failure> {
    let most = context.settings.count(&SCALE)?;
    // Asked to scale it starts processes, where they can reach the bus.
    let apart = context.launch.clone().filter(|_| most > 0);
    let most = if most > 0 { most } else { MOST };
    // Makers of this process share one member of a Kafka group, for as long as somebody holds it:
    // otherwise each of them would join, and leave.
    let _held = match apart {
        Some(_) => None,
        None => Some(consumer(&context.bus).open().await?),
    };
    let every = context.settings.time(&POLL)?.max(Duration::from_millis(10));
    let (backlog_shown, makers_shown) = (context.gauge("backlog"), context.gauge("makers"));
    let (began, mut run, mut makers) = (Instant::now(), Run::default(), JoinSet::new());
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! { biased;
            () = context.shutdown.cancelled() => break,
            Some(ended) = makers.join_next() => {
                run.ended(&context, apart.is_some(), ended?)?;
                continue;
            }
            _ = ticks.tick() => {}
        }
        // Asked before the backlog, so that the last order of the last patient is in it.
        let patients = patients(&context);
        let backlog = match backlog(&context.bus).await {
            Ok(backlog) => backlog,
            Err(error) if error.is_retryable() => {
                tracing::warn!(%error, "the backlog is not known, nothing is started");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        for _ in 0..to_start(backlog, makers.len() as u64, most) {
            start(&context, apart.as_ref(), &mut makers);
        }
        backlog_shown.set(backlog);
        makers_shown.set(makers.len() as u64);
        let makers_now = makers.len() as u64;
        run.sample(&context, began.elapsed(), patients.unwrap_or_default(), backlog, makers_now);
        if patients == Some(0) && backlog == 0 && makers.is_empty() {
            break;
        }
    }
    // Those at work finish: their orders would only come again.
    while let Some(ended) = makers.join_next().await {
        run.ended(&context, apart.is_some(), ended?)?;
    }
    makers_shown.set(0);
    run.sample(&context, began.elapsed(), 0, backlog_shown.get(), 0);
    run.finish(&context)
}

/// Patients of this process who order; `None` where there are none to wait for, or not yet.
fn patients(context: &Context) -> Option<u64> {
    let have_begun = context.runs("patient") && context.counter("orders").get() > 0;
    have_begun.then(|| context.gauge("patients").get())
}

/// Orders that are not made, those at work included.
async fn backlog(bus: &Bus) -> bus::Result<u64> {
    match bus.consumer_info(ORDERS, MAKERS).await {
        Ok(info) => Ok(info.pending + info.unsettled),
        // The first maker makes it, and begins with the first order.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Ok(bus.stream(ORDERS).await?.info().await?.messages)
        }
        Err(error) => Err(error),
    }
}

fn start(context: &Context, apart: Option<&Launch>, makers: &mut JoinSet<Result<Ended, Failure>>) {
    match apart {
        Some(launch) => makers.spawn(process(launch("maker"))),
        None => {
            let context = context.clone();
            makers.spawn(async move { maker::one_order(&context, |_| {}).await })
        }
    };
}

/// Runs a maker in a process of its own and reads its summary.
async fn process(mut command: Command) -> Result<Ended, Failure> {
    command.arg("--json").stdin(Stdio::null());
    let output = tokio::process::Command::from(command).kill_on_drop(true).output().await?;
    let said = String::from_utf8_lossy(&output.stdout);
    let summary = said.lines().find_map(|line| serde_json::from_str(line).ok());
    match (output.status.success(), summary) {
        (true, Some(ended)) => Ok(ended),
        _ => {
            let why = String::from_utf8_lossy(&output.stderr);
            Err(format!("a maker ended with {}: {}", output.status, why.trim()).into())
        }
    }
}

impl Run {
    /// Takes a maker's summary. One that failed left its order to another; many in a row are no
    /// accident.
    fn ended(
        &mut self,
        context: &Context,
        apart: bool,
        ended: Result<Ended, Failure>,
    ) -> Result<(), Failure> {
        match ended {
            Ok(Ended::Made { tabs, delay_ms, .. }) => {
                let delay = Duration::from_millis(delay_ms);
                self.now.made += 1;
                self.now.waited += delay;
                self.now.slowest = self.now.slowest.max(delay);
                // Those in this process have counted for themselves.
                if apart {
                    context.counter("orders made").add(1);
                    context.counter("tabs delivered").add(tabs.into());
                }
            }
            Ok(parked @ Ended::Parked { .. }) => {
                let record = serde_json::to_value(&parked).unwrap_or_default();
                context.tell(&parked.to_string(), &record);
                if apart {
                    context.counter("orders parked").add(1);
                }
            }
            Ok(Ended::NoOrder) => {}
            Err(failure) => {
                self.failures += 1;
                tracing::warn!(%failure, "a maker failed, its order comes again");
                return if self.failures < FAILURES { Ok(()) } else { Err(failure) };
            }
        }
        self.failures = 0;
        Ok(())
    }

    fn sample(
        &mut self,
        context: &Context,
        at: Duration,
        patients: u64,
        backlog: u64,
        makers: u64,
    ) {
        let sample = Sample { at, patients, backlog, makers, ..std::mem::take(&mut self.now) };
        self.history.add(sample);
        match &mut self.phase {
            // What the last patients ordered is made after they are gone.
            Some(phase) if patients == 0 || phase.patients() == patients => phase.add(sample),
            phase => {
                tell_phase(context, phase.take());
                // Orders of patients who were gone before the first look, or who are elsewhere.
                let is_one = patients > 0 || sample.made > 0;
                *phase = is_one.then(|| Phase::from(sample));
            }
        }
    }

    fn finish(self, context: &Context) -> Result<(), Failure> {
        tell_phase(context, self.phase);
        let Some(file) = context.settings.text(&PLOT) else { return Ok(()) };
        let svg = plot::svg(self.history.samples())?;
        std::fs::write(file, svg).map_err(|error| format!("{file} cannot be written: {error}"))?;
        context.tell(&format!("the plot is in {file}"), &serde_json::json!({ "plot": file }));
        Ok(())
    }
}

fn tell_phase(context: &Context, phase: Option<Phase>) {
    if let Some((text, record)) = phase.map(|phase| phase.told()) {
        context.tell(&text, &record);
    }
}
