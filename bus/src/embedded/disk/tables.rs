//! The database underneath: a keyspace per table, and what its failures mean.

use std::fs::File;
use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Slice};

use super::keys::{CLOCK_KEY, Table, VERSION, VERSION_KEY};
use crate::error::{Error, ErrorKind, Result};

/// So much of a table is in memory at most before it is written out in order.
const MEMTABLE_BYTES: u64 = 16 << 20;
/// So much journal is kept at most; a restart reads it.
const JOURNAL_BYTES: u64 = 128 << 20;
/// What of the tables is cached in memory.
const CACHE_BYTES: u64 = 32 << 20;
/// Threads of the database that write out and compact.
const WORKERS: usize = 2;

/// One row to write, or to remove where there is no value.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) table: Table,
    pub(super) key: Slice,
    pub(super) value: Option<Slice>,
}

/// What a backend's folder has in it: the lock of whoever has it open, the database, and one that
/// is being made.
const LOCK: &str = "lock";
const DATABASE: &str = "database";
const UNFINISHED: &str = "unfinished";

/// An open database. Only one process can have it open.
pub(super) struct Tables {
    database: Database,
    keyspaces: [Keyspace; Table::ALL.len()],
    /// Let go last.
    _lock: File,
}

impl Tables {
    /// Opens the database in the folder `path`, or makes one there.
    ///
    /// It is made under another name and then renamed: a database whose making was cut short
    /// cannot be opened. What is in it is on the disk when this returns: a process that was killed
    /// may have left some of it to the operating system, and whatever is told of it from here on
    /// must stand.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let io = |error: std::io::Error| failed(path, error.into());
        let lock = lock(path)?;
        let database = path.join(DATABASE);
        if !database.try_exists().map_err(io)? {
            let unfinished = path.join(UNFINISHED);
            if unfinished.try_exists().map_err(io)? {
                std::fs::remove_dir_all(&unfinished).map_err(io)?;
            }
            let made = Self::open_in(&unfinished, lock.try_clone().map_err(io)?)?;
            made.sync().map_err(|error| failed(path, error))?;
            drop(made);
            std::fs::rename(&unfinished, &database).map_err(io)?;
            File::open(path).and_then(|folder| folder.sync_all()).map_err(io)?;
        }
        sync_all(&database).map_err(io)?;
        Self::open_in(&database, lock)
    }

    fn open_in(path: &Path, lock: File) -> Result<Self> {
        let opened = Database::builder(path)
            .worker_threads(WORKERS)
            .max_journaling_size(JOURNAL_BYTES)
            .cache_size(CACHE_BYTES)
            .open();
        let database = opened.map_err(|error| failed(path, error))?;
        let open = |table: Table| {
            let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
            database.keyspace(table.name(), options).map_err(|error| failed(path, error))
        };
        let [meta, outlines, bodies, ids, delayed, unsettled, values] = Table::ALL;
        let keyspaces = [
            open(meta)?,
            open(outlines)?,
            open(bodies)?,
            open(ids)?,
            open(delayed)?,
            open(unsettled)?,
            open(values)?,
        ];
        let tables = Self { database, keyspaces, _lock: lock };
        tables.check_version(path)?;
        Ok(tables)
    }

    /// The last time that anything was written, in nanoseconds since 1970; 0 when nothing was, or
    /// when a program wrote it that did not say.
    pub(super) fn clock(&self, path: &Path) -> Result<u64> {
        let row = self.get(Table::Meta, CLOCK_KEY).map_err(|error| failed(path, error))?;
        let time = row.map_or(Some(0), |row| Some(u64::from_be_bytes(row[..].try_into().ok()?)));
        time.ok_or_else(|| corrupt(path, Table::Meta, CLOCK_KEY))
    }

    fn check_version(&self, path: &Path) -> Result<()> {
        let version = self.get(Table::Meta, VERSION_KEY).map_err(|error| failed(path, error))?;
        let Some(version) = version else {
            let value = Some(Slice::from(VERSION.to_be_bytes()));
            let write = Write { table: Table::Meta, key: Slice::from(VERSION_KEY), value };
            return self.write([write]).map_err(|error| failed(path, error));
        };
        if version[..] == VERSION.to_be_bytes() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            format!(
                "{} has format {:?}, and this program reads {VERSION}: open it with the program \
                 that wrote it",
                path.display(),
                &version[..]
            ),
        ))
    }

    fn keyspace(&self, table: Table) -> &Keyspace {
        // The order of `ALL` is that of the variants.
        let [meta, outlines, bodies, ids, delayed, unsettled, values] = &self.keyspaces;
        match table {
            Table::Meta => meta,
            Table::Outlines => outlines,
            Table::Bodies => bodies,
            Table::Ids => ids,
            Table::Delayed => delayed,
            Table::Open => unsettled,
            Table::Values => values,
        }
    }

    pub(super) fn get(&self, table: Table, key: &[u8]) -> fjall::Result<Option<Slice>> {
        self.keyspace(table).get(key)
    }

    /// Every row whose key begins with `prefix`, in the order of the keys.
    pub(super) fn rows(
        &self,
        table: Table,
        prefix: &[u8],
    ) -> impl Iterator<Item = fjall::Result<(Slice, Slice)>> + use<> {
        self.keyspace(table).prefix(prefix).map(fjall::Guard::into_inner)
    }

    /// Writes all or nothing. On return the operating system has it: it survives the end of this
    /// process, and a loss of power only after [`Tables::sync`].
    pub(super) fn write(&self, writes: impl IntoIterator<Item = Write>) -> fjall::Result<()> {
        let mut batch = self.database.batch().durability(Some(PersistMode::Buffer));
        for Write { table, key, value } in writes {
            match value {
                Some(value) => batch.insert(self.keyspace(table), key, value),
                None => batch.remove(self.keyspace(table), key),
            }
        }
        batch.commit()
    }

    /// Returns when everything written before is on the disk.
    pub(super) fn sync(&self) -> fjall::Result<()> {
        self.database.persist(PersistMode::SyncData)
    }
}

/// Returns when every file below `folder` is on the disk.
fn sync_all(folder: &Path) -> std::io::Result<()> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                File::open(&path)?.sync_all()?;
            }
        }
        File::open(&folder)?.sync_all()?;
    }
    Ok(())
}

/// Keeps other processes out until it is dropped.
fn lock(path: &Path) -> Result<File> {
    let file = File::options().create(true).append(true).open(path.join(LOCK));
    let file = file.map_err(|error| failed(path, error.into()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(failed(path, fjall::Error::Locked)),
        Err(std::fs::TryLockError::Error(error)) => Err(failed(path, error.into())),
    }
}

/// What a failure to open or read the database at `path` means.
pub(super) fn failed(path: &Path, error: fjall::Error) -> Error {
    let path = path.display();
    match error {
        fjall::Error::Locked => Error::new(
            ErrorKind::Unavailable,
            format!("{path} is open in another process: stop that one or use another folder"),
        ),
        fjall::Error::Io(source) => {
            let what = format!("{path} cannot be opened or read: mind the folder and its rights");
            Error::with_source(ErrorKind::Unavailable, what, source)
        }
        fjall::Error::Poisoned => Error::new(
            ErrorKind::Unavailable,
            format!("{path} failed to write before: free or mend the disk and connect anew"),
        ),
        other => {
            let what = format!("{path} is damaged: put back a copy of the folder, or remove it");
            Error::with_source(ErrorKind::Corrupt, what, other)
        }
    }
}

/// The error for a row that is not what this crate wrote.
pub(super) fn corrupt(path: &Path, table: Table, key: &[u8]) -> Error {
    let row: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    Error::new(
        ErrorKind::Corrupt,
        format!(
            "row {row} of table {} in {} is damaged: put back a copy of the folder, or remove it",
            table.name(),
            path.display()
        ),
    )
}
