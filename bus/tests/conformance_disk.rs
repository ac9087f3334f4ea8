//! The conformance suite on the embedded backend on disk. A restart forgets everything in memory,
//! what was not written included, and opens the folder again.

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
        self.disk.crash().await
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
