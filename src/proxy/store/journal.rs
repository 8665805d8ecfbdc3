//! The journal: identifies the lease at which the process died, and counts such deaths, so that one
//! lease cannot keep the daemon from serving the others.
//!
//! One thread does all the work, one step at a time. Before each step the file names the lease, and
//! after the step none: a step that crashes or hangs leaves the name of its lease in the file.
//! Nothing is synced: a file outlives its process without that, and need not survive a power cut.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::hash::Hasher;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use siphasher::sip::SipHasher24;

use crate::proxy::key::LeaseKey;
use crate::proxy::store::directory::StateDirectory;
use crate::proxy::store::trust::Trust;

/// The delay before a lease is tried again after its second death, if it lasts long enough.
const SECOND_RETRY_DELAY: Duration = Duration::from_secs(300);

/// The most leases with a death count.
const MAX_LEASES: usize = 1000;

/// The most bytes that are read of the file.
const MAX_FILE_LEN: u64 = 64 * 1024;

/// A lease in the file: a hash of its key, so that no text chosen by a container is in there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct LeaseHash(u64);

impl LeaseHash {
    /// No lease.
    const NONE: Self = Self(0);

    fn of(key: &LeaseKey) -> Self {
        let mut hasher = SipHasher24::new();
        let netns = key.netns.as_os_str().as_bytes();
        hasher.write(&key.mac.0);
        hasher.write_u64(netns.len() as u64);
        hasher.write(netns);
        hasher.write(key.interface.as_bytes());
        Self(hasher.finish().max(1))
    }

    fn line(self) -> String {
        format!("{:016x}\n", self.0)
    }
}

/// Deaths by lease, since work for the lease last ended.
#[derive(Debug, Default, PartialEq, Eq)]
struct Deaths(BTreeMap<LeaseHash, u32>);

impl Deaths {
    /// Parses a file: the lease in work when it was last written, and the counts before that.
    /// Malformed lines are skipped.
    fn parse(text: &str) -> (Option<LeaseHash>, Self) {
        let mut lines = text.lines();
        let parse_hash = |text: &str| {
            u64::from_str_radix(text, 16)
                .ok()
                .map(LeaseHash)
                .filter(|hash| *hash != LeaseHash::NONE)
        };
        let current = lines.next().and_then(parse_hash);
        let mut deaths = Self::default();
        for (lease, count) in lines.filter_map(|line| line.split_once(' ')) {
            if let (Some(lease), Ok(count)) = (parse_hash(lease), count.parse())
                && deaths.0.len() < MAX_LEASES
            {
                deaths.0.entry(lease).or_insert(count);
            }
        }
        (current, deaths)
    }

    /// Returns the text of a file with no lease in work.
    fn text(&self) -> String {
        let mut text = LeaseHash::NONE.line();
        for (LeaseHash(lease), count) in &self.0 {
            writeln!(text, "{lease:016x} {count}").expect("a String takes everything");
        }
        text
    }

    /// Adds a death at work for a lease.
    fn count(&mut self, lease: LeaseHash) {
        let count = self.0.entry(lease).or_default();
        *count = count.saturating_add(1);
    }

    fn of(&self, lease: LeaseHash) -> u32 {
        self.0.get(&lease).copied().unwrap_or(0)
    }

    /// Clears the deaths of a lease. Returns whether there were any.
    fn clear(&mut self, lease: LeaseHash) -> bool {
        self.0.remove(&lease).is_some()
    }
}

/// The content of the file as another process reads it.
#[derive(Debug, Default)]
pub(crate) struct RecordedDeaths {
    in_work: Option<LeaseHash>,
    deaths: Deaths,
}

impl RecordedDeaths {
    pub(crate) fn read(file: impl Read) -> io::Result<Self> {
        let mut text = Vec::new();
        file.take(MAX_FILE_LEN).read_to_end(&mut text)?;
        let (in_work, deaths) = Deaths::parse(&String::from_utf8_lossy(&text));
        Ok(Self { in_work, deaths })
    }

    /// Returns a content that no file had: deaths at a lease, which is in work or not.
    #[cfg(test)]
    pub(crate) fn made_of(lease: &LeaseKey, deaths: u32, is_in_work: bool) -> Self {
        let lease = LeaseHash::of(lease);
        Self {
            in_work: is_in_work.then_some(lease),
            deaths: Deaths(BTreeMap::from([(lease, deaths)])),
        }
    }

    /// Returns whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.in_work.is_none() && self.deaths.0.is_empty()
    }

    /// Returns the number of deaths at a lease. Where no process runs, that of the lease in work is
    /// not counted yet.
    pub(crate) fn of(&self, lease: &LeaseKey, is_running: bool) -> u32 {
        let lease = LeaseHash::of(lease);
        let is_last = !is_running && self.in_work == Some(lease);
        self.deaths.of(lease).saturating_add(is_last.into())
    }
}

/// Returns the delay before a lease is tried again. `remaining` is how long it lasts, `None` for
/// ever: the delay alone must not cost the lease.
fn retry_delay(deaths: u32, remaining: Option<Duration>) -> Duration {
    match deaths {
        0 | 1 => Duration::ZERO,
        _ => remaining.map_or(SECOND_RETRY_DELAY, |remaining| {
            SECOND_RETRY_DELAY.min(remaining / 4)
        }),
    }
}

/// The file, and the counts in it.
#[derive(Debug)]
pub(crate) struct Journal {
    directory: Rc<StateDirectory>,
    name: OsString,
    file: RefCell<Option<File>>,
    deaths: RefCell<Deaths>,
    /// The lease at which the previous process died.
    previous_death: Cell<Option<LeaseHash>>,
    /// The lease in work.
    current: Cell<LeaseHash>,
    /// Set once a write error has been logged.
    warned: Cell<bool>,
}

impl Journal {
    /// Returns a journal in the file `name` of `directory`, not opened yet.
    pub(crate) fn new(directory: &Rc<StateDirectory>, name: impl Into<OsString>) -> Rc<Self> {
        let (file, deaths) = (RefCell::default(), RefCell::default());
        Rc::new(Self {
            directory: Rc::clone(directory),
            name: name.into(),
            file,
            deaths,
            previous_death: Cell::new(None),
            current: Cell::new(LeaseHash::NONE),
            warned: Cell::default(),
        })
    }

    /// Opens the file and reads what the previous process left in it.
    pub(crate) fn open(&self) {
        if let Err(error) = self.try_open() {
            log::warn!(
                "cannot use {}: {error}; a lease that crashes the daemon is not recognized",
                self.directory.path_of(&self.name).display()
            );
        }
    }

    fn try_open(&self) -> io::Result<()> {
        let file = self.directory.open()?.update(&self.name)?;
        let mut text = Vec::new();
        (&file).take(MAX_FILE_LEN).read_to_end(&mut text)?;
        let (previous_death, mut deaths) = Deaths::parse(&String::from_utf8_lossy(&text));
        previous_death.iter().for_each(|lease| deaths.count(*lease));
        self.previous_death.set(previous_death);
        let is_new = deaths.text().as_bytes() != text;
        self.deaths.replace(deaths);
        self.file.replace(Some(file));
        if is_new { self.write() } else { Ok(()) }
    }

    /// Creates the file again if it was removed, for example with its directory.
    pub(crate) fn recreate_file(&self) {
        let is_gone = |file: &File| file.metadata().is_ok_and(|metadata| metadata.nlink() == 0);
        if self.file.borrow().as_ref().is_some_and(is_gone) {
            let opened = self
                .directory
                .open()
                .and_then(|directory| directory.update(&self.name));
            self.log_error(opened.and_then(|file| {
                self.file.replace(Some(file));
                self.write()
            }));
        }
    }

    /// Drops the counts of leases that do not exist any more: of all but `leases`.
    pub(crate) fn retain<'a>(&self, leases: impl IntoIterator<Item = &'a LeaseKey>) {
        if self.deaths.borrow().0.is_empty() {
            return;
        }
        let mut kept = BTreeMap::new();
        for lease in leases.into_iter().map(LeaseHash::of) {
            kept.extend(
                self.deaths
                    .borrow()
                    .0
                    .get(&lease)
                    .map(|count| (lease, *count)),
            );
        }
        if self.deaths.replace(Deaths(kept)) != *self.deaths.borrow() {
            self.log_error(self.write());
        }
    }

    /// Returns how far a lease is trusted.
    pub(crate) fn trust(&self, lease: &LeaseKey) -> Trust {
        Trust::after(self.deaths(lease))
    }

    /// Returns the number of deaths at a lease.
    pub(crate) fn deaths(&self, lease: &LeaseKey) -> u32 {
        let deaths = self.deaths.borrow();
        // The usual case.
        if deaths.0.is_empty() {
            0
        } else {
            deaths.of(LeaseHash::of(lease))
        }
    }

    /// Returns the delay before the next try of a lease at which the previous process died; `None`
    /// for any other lease. `remaining` is how long the lease lasts without a renewal.
    pub(crate) fn retry_delay(
        &self,
        lease: &LeaseKey,
        remaining: Option<Duration>,
    ) -> Option<Duration> {
        let is_previous_death = self
            .previous_death
            .get()
            .is_some_and(|previous_death| previous_death == LeaseHash::of(lease));
        is_previous_death.then(|| retry_delay(self.deaths(lease), remaining))
    }

    /// Clears the deaths of a lease after its work has ended, successful or not.
    pub(crate) fn clear_deaths(&self, lease: &LeaseKey) {
        if !self.deaths.borrow().0.is_empty()
            && self.deaths.borrow_mut().clear(LeaseHash::of(lease))
        {
            self.log_error(self.write());
        }
    }

    /// Adds deaths that did not happen.
    #[cfg(test)]
    pub(crate) fn count(&self, lease: &LeaseKey, deaths: u32) {
        (0..deaths).for_each(|_| self.deaths.borrow_mut().count(LeaseHash::of(lease)));
    }

    /// Clears all counts, when the process ends on request.
    pub(crate) fn clear(&self) {
        self.deaths.take();
        self.log_error(self.write());
    }

    /// Records `lease` as in work until the guard is dropped.
    pub(crate) fn begin_step(&self, lease: &LeaseKey) -> JournalStep<'_> {
        self.step(LeaseHash::of(lease))
    }

    fn step(&self, lease: LeaseHash) -> JournalStep<'_> {
        let before = self.current.get();
        self.set_current(lease);
        JournalStep {
            journal: self,
            before,
        }
    }

    fn set_current(&self, lease: LeaseHash) {
        if self.current.replace(lease) != lease
            && let Some(file) = &*self.file.borrow()
        {
            self.log_error(file.write_all_at(lease.line().as_bytes(), 0));
        }
    }

    /// Writes the whole file.
    fn write(&self) -> io::Result<()> {
        let file = self.file.borrow();
        let Some(file) = &*file else { return Ok(()) };
        let mut text = self.deaths.borrow().text();
        text.replace_range(..LeaseHash::NONE.line().len(), &self.current.get().line());
        file.write_all_at(text.as_bytes(), 0)?;
        file.set_len(text.len() as u64)
    }

    fn log_error(&self, written: io::Result<()>) {
        if let Err(error) = written
            && !self.warned.replace(true)
        {
            log::warn!(
                "cannot write {}: {error}; a lease that crashes the daemon is not recognized",
                self.directory.path_of(&self.name).display()
            );
        }
    }

    /// Returns a future of `work` that records `lease` as in work during each poll and the drop.
    pub(crate) fn watch<F: Future>(self: &Rc<Self>, lease: &LeaseKey, work: F) -> Work<F> {
        Work {
            journal: Rc::clone(self),
            lease: LeaseHash::of(lease),
            work: Some(Box::pin(work)),
        }
    }
}

/// One step of work for a lease.
#[must_use = "dropped at once, it is over at once"]
pub(crate) struct JournalStep<'a> {
    journal: &'a Journal,
    before: LeaseHash,
}

impl Drop for JournalStep<'_> {
    fn drop(&mut self) {
        self.journal.set_current(self.before);
    }
}

/// The future of [`Journal::watch`].
pub(crate) struct Work<F> {
    journal: Rc<Journal>,
    lease: LeaseHash,
    /// `None` only during the drop.
    work: Option<Pin<Box<F>>>,
}

impl<F: Future> Future for Work<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Self {
            journal,
            lease,
            work,
        } = &mut *self;
        let _step = journal.step(*lease);
        work.as_mut()
            .expect("it is taken by the drop alone")
            .as_mut()
            .poll(context)
    }
}

impl<F> Drop for Work<F> {
    fn drop(&mut self) {
        let _step = self.journal.step(self.lease);
        self.work = None;
    }
}

#[cfg(test)]
mod tests;
