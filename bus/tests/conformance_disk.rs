//! The conformance suite on the embedded backend on disk. It is inside this process, so that there
//! is no broker to restart: what a process that was killed leaves is tested in `tests/disk`.

use std::sync::Arc;

use async_trait::async_trait;
use bus::conformance::Target;
use bus::embedded::disk::{Disk, SyncPolicy};
use bus::{Bus, Result};
use tempfile::TempDir;

struct Folder {
    disk: Disk,
    _folder: TempDir,
}

impl Folder {
    async fn new(policy: SyncPolicy) -> Self {
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        let disk = Disk::open(folder.path(), policy).await;
        Self { disk: disk.unwrap_or_else(|error| panic!("{error}")), _folder: folder }
    }
}

#[async_trait]
impl Target for Folder {
    async fn bus(&self) -> Result<Bus> {
        Ok(Bus::with_driver(Arc::new(self.disk.another())))
    }

    async fn restart_broker(&self) -> Result<()> {
        Ok(())
    }
}

mod each {
    use super::{Folder, SyncPolicy};

    bus::conformance_tests!(Folder::new(SyncPolicy::Each).await);
}

mod interval {
    use super::{Folder, SyncPolicy};

    bus::conformance_tests!(Folder::new(SyncPolicy::Interval).await);
}
