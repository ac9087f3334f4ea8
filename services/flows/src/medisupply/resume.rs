//! When parked orders are taken up.

use std::time::Duration;

use lockgate_resilience::Breaker;

use super::Settings;

/// Looks this often. Nothing is asked of anybody.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Tells when the external service has recovered.
#[derive(Debug, Clone)]
pub(super) struct Recovery {
    breaker: Option<Breaker>,
    calm: Duration,
    wait: Duration,
}

impl Recovery {
    pub(super) fn new(settings: &Settings, breaker: Option<Breaker>) -> Self {
        let wait = settings.breaker.as_ref().map_or(settings.calm, |config| config.wait);
        Self { breaker, calm: settings.calm, wait }
    }

    /// Waits until nothing has failed for a while: a service that flaps is not asked a second time
    /// about every order each time it looks well. Where nobody else tries the service, because no
    /// other order is left, the parked ones do, as few as the breaker lets through.
    ///
    /// Without a breaker nothing tells, and this waits for a fixed time.
    pub(super) async fn wait(&self) {
        let Some(breaker) = &self.breaker else {
            return tokio::time::sleep(self.calm).await;
        };
        loop {
            let now = breaker.snapshot();
            if now.calm >= self.calm || now.idle >= self.wait {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use lockgate_resilience::BreakerConfig;
    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn parked_orders_wait_for_calm_and_try_where_nobody_does() {
        let wait = Duration::from_secs(1);
        let config = BreakerConfig { window: 1, minimum_calls: 1, wait, ..Default::default() };
        let config = BreakerConfig { half_open_calls: 1, ..config };
        let calm = Duration::from_secs(5);
        let settings = Settings { breaker: Some(config.clone()), calm, ..Settings::default() };
        let breaker = Breaker::new(config);
        let recovery = Recovery::new(&settings, Some(breaker.clone()));

        breaker.acquire().await.failed();
        let trial = breaker.acquire().await;
        assert!(timeout(wait * 20, recovery.wait()).await.is_err(), "somebody is trying");
        trial.failed();
        let begin = Instant::now();
        recovery.wait().await;
        assert!(begin.elapsed() >= wait * 2, "not before others had their time to try");
        breaker.acquire().await.succeeded();
        let begin = Instant::now();
        recovery.wait().await;
        assert!(begin.elapsed() >= calm, "{:?}", begin.elapsed());
    }
}
