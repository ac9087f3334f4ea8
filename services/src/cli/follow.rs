//! Stream mode in the terminal: prefill with proof, then live, and a position that is kept.

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::delivery::{Delivery, Phase};
use super::failure::Failure;
use super::screen::{Screen, grouped, per_second, printable};
use super::state::{Kept, Position, StateFile};
use super::subscribe::Reading;
use crate::client::StreamItem;
use crate::client::sse::SseEvent;

/// Reads until told to stop, the end of the stream, or what `reading` asks for.
pub(super) async fn run(
    reading: Reading,
    screen: Screen,
    file: StateFile,
    kept: Kept,
) -> Result<(), Failure> {
    let mut follower = Follower {
        reading,
        screen,
        file,
        kept,
        given: 0,
        odd: 0,
        started: Instant::now(),
        rows_before: 0,
    };
    let outcome = follower.follow().await;
    follower.screen.hide_bar();
    follower.file.save(&follower.kept)?;
    outcome?;
    follower.farewell();
    Ok(())
}

struct Follower {
    reading: Reading,
    screen: Screen,
    file: StateFile,
    kept: Kept,
    given: u64,
    /// Rows that could not be read, and so are missing from the digest.
    odd: u64,
    started: Instant,
    rows_before: u64,
}

enum Next {
    GoOn,
    Stop,
}

/// The data of control events, as far as they are needed here.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Control {
    generation: Option<u32>,
    rows: Option<u64>,
    total: Option<u64>,
    scanned: Option<u64>,
    digest: Option<String>,
    status: Option<String>,
    reason: Option<String>,
}

impl Follower {
    async fn follow(&mut self) -> Result<(), Failure> {
        if self.has_enough() {
            return Ok(());
        }
        let mut stream = self
            .reading
            .subscriber
            .events_over(self.reading.transport, self.kept.position.resume.clone());
        if self.kept.position.in_prefill {
            self.begin_bar(None);
        }
        loop {
            let item = tokio::select! { biased;
                () = self.reading.stop.cancelled() => return Ok(()),
                item = stream.next() => item?,
            };
            match item {
                Some(StreamItem::Event(event)) => {
                    let next = self.take(event).await?;
                    if let Next::Stop = next {
                        return Ok(());
                    }
                    if !stream.has_ready() {
                        self.file.save(&self.kept)?;
                    }
                }
                Some(StreamItem::Reconnecting { error, delay }) => {
                    let what = error.to_string();
                    let what = what.lines().next().unwrap_or_default();
                    tracing::debug!(%error, ?delay, "reconnecting");
                    if self.screen.is_terminal() {
                        self.screen.note(&format!("{what} · again in {delay:?}"));
                    }
                }
                None => return Ok(()),
            }
        }
    }

    async fn take(&mut self, event: SseEvent) -> Result<Next, Failure> {
        let next = match event.event.as_str() {
            "message" => self.message(&event.data)?,
            control => self.control(control, &event.data).await?,
        };
        // After the event was shown: a crash in between shows it again rather than never.
        if !event.id.is_empty() {
            self.kept.position.resume = Some(event.id);
        }
        Ok(next)
    }

    fn message(&mut self, data: &str) -> Result<Next, Failure> {
        let phase = if self.kept.position.in_prefill { Phase::Prefill } else { Phase::Live };
        let delivery = Delivery::parse(phase, data);
        // Shown before it counts: where showing fails, it comes again and is counted then.
        match &delivery {
            Some(delivery) => self.screen.delivery(delivery)?,
            None => self.screen.not_understood(phase, data)?,
        }
        let position = &mut self.kept.position;
        match (phase, &delivery) {
            (Phase::Prefill, Some(delivery)) => {
                position.rows += 1;
                position.digest.add(&delivery.topic.realm, delivery.sequence);
            }
            (Phase::Prefill, None) => self.odd += 1,
            (Phase::Live, Some(delivery)) => {
                position.at.insert(delivery.topic.realm.to_string(), delivery.sequence);
            }
            (Phase::Live, None) => {}
        }
        if phase == Phase::Prefill {
            let (rows, took) = (self.kept.position.rows, self.started.elapsed());
            let new = rows.saturating_sub(self.rows_before);
            self.screen
                .advance(rows, || format!("{} rows · {}/s", grouped(rows), per_second(new, took)));
        }
        self.given += 1;
        Ok(if self.has_enough() { Next::Stop } else { Next::GoOn })
    }

    fn has_enough(&self) -> bool {
        self.reading.count.is_some_and(|count| self.given >= count)
    }

    async fn control(&mut self, name: &str, data: &str) -> Result<Next, Failure> {
        let control: Control = serde_json::from_str(data).unwrap_or_default();
        match name {
            "prefill-start" => self.prefill_start(&control),
            "prefill-end" => return self.prefill_end(control).await.map(|()| Next::GoOn),
            "progress" => self.progress(&control)?,
            "waiting" if self.screen.is_terminal() => {
                let why = control.reason.as_deref().unwrap_or("it cannot serve this now");
                self.screen.note(&format!("the server keeps this waiting: {}", printable(why)));
            }
            "expired" if !self.screen.is_json() => {
                let reason =
                    control.reason.as_deref().unwrap_or("the position is no good any more");
                self.screen.note(&format!("expired: {}", printable(reason)));
            }
            _ => {}
        }
        if self.screen.is_json() {
            let data = serde_json::from_str::<&RawValue>(data).map_or("null", RawValue::get);
            let name = serde_json::Value::from(name);
            self.screen.line(&format!("{{\"control\":{name},\"data\":{data}}}"))?;
        }
        Ok(match name {
            "up-to-date" if self.reading.until_up_to_date => Next::Stop,
            _ => Next::GoOn,
        })
    }

    /// A connection that broke in the middle of a prefill resumes it: what was counted counts.
    fn prefill_start(&mut self, control: &Control) {
        let position = &mut self.kept.position;
        let generation = control.generation.unwrap_or(position.generation);
        if !(position.in_prefill && position.generation == generation) {
            let resume = position.resume.take();
            *position = Position { generation, in_prefill: true, resume, ..Position::default() };
        }
        self.begin_bar(control.rows);
    }

    fn begin_bar(&mut self, rows: Option<u64>) {
        (self.started, self.rows_before) = (Instant::now(), self.kept.position.rows);
        self.screen.show_bar("prefill", rows);
    }

    /// How far the worker is; the rows come when it is done.
    fn progress(&mut self, control: &Control) -> Result<(), Failure> {
        if let Some(status @ ("failed" | "cancelled")) = control.status.as_deref() {
            let reason = control.reason.as_deref().unwrap_or("no reason was given");
            return Err(Failure::new(format!(
                "the prefill of {name} {status}: {reason}\n  delete and register it again: \
                 lockgate subscriptions delete {name}",
                name = self.reading.name,
                reason = printable(reason),
            )));
        }
        if !self.kept.position.in_prefill {
            self.screen.show_bar("prefill", control.total);
            let done = control.scanned.or(control.rows).unwrap_or(0);
            self.screen.advance(done, || format!("{} keys read", grouped(done)));
        }
        Ok(())
    }

    /// Holds what came against the manifest.
    async fn prefill_end(&mut self, control: Control) -> Result<(), Failure> {
        let took = self.started.elapsed();
        let (rows, digest) = match (control.rows, control.digest) {
            (Some(rows), Some(digest)) => (rows, digest),
            _ => self.manifest().await?,
        };
        let position = &mut self.kept.position;
        let (own_rows, own_digest) = (position.rows, position.digest);
        position.in_prefill = false;
        self.screen.hide_bar();
        if own_rows != rows || own_digest.to_hex() != digest {
            // Kept, this position would go on as if the state were whole.
            *position = Position::default();
            let odd = match self.odd {
                0 => String::new(),
                odd => format!(", {odd} could not be read by this version"),
            };
            return Err(Failure::new(format!(
                "the prefill is not what its manifest says: {own_rows} rows came{odd}, the \
                 manifest has {rows}, and the digests {}\n  \
                 read it again: lockgate subscribe {} --from-start",
                if own_digest.to_hex() == digest { "agree" } else { "differ" },
                self.reading.name
            )));
        }
        let new = rows.saturating_sub(self.rows_before);
        self.screen.prefill_done(rows, &per_second(new, took))?;
        Ok(())
    }

    async fn manifest(&self) -> Result<(u64, String), Failure> {
        let (client, secret) = (&self.reading.client, &self.kept.secret);
        let prefill = client.subscription(&self.reading.name, Some(secret)).await?.prefill;
        match (prefill.rows, prefill.digest) {
            (Some(rows), Some(digest)) => Ok((rows, digest)),
            _ => Err(Failure::new("the server shows no manifest of the prefill that it sent")),
        }
    }

    fn farewell(&self) {
        if !self.screen.is_terminal() {
            return;
        }
        let at = &self.kept.position.at;
        let at: Vec<_> =
            at.iter().map(|(realm, sequence)| format!("{realm} {}", grouped(*sequence))).collect();
        let place = if at.is_empty() { String::new() } else { format!(" at {}", at.join(", ")) };
        let name = &self.reading.name;
        self.screen.note(&format!("stopped{place} · resume with: lockgate subscribe {name}"));
    }
}
