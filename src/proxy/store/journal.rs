//! The journal of work: which lease the process died of, and how often, so that no lease can keep
//! all others from theirs.
//!
//! One thread does all the work, a step at a time. Before each step for a lease the file says which
//! one it is for, and after it that it is for none: a process that is killed for a step that
//! crashes or hangs leaves the culprit's name behind, and no other one's. Nothing is synced, for a
//! file outlives the process without that; it need not survive a power cut.

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

/// How long the second try after a death is put off, where the lease lasts long enough.
const LATER: Duration = Duration::from_secs(300);

/// Leases whose deaths are counted.
const LEASES: usize = 1000;

/// The longest file that can be one of ours.
const LONGEST: u64 = 64 * 1024;

/// Identifies a lease in the file: a hash of its key, which has no place for a name that a
/// container chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Mark(u64);

impl Mark {
    /// Stands for no lease.
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

/// How often the process died of each lease, of those for which no work has come to its end since.
#[derive(Debug, Default, PartialEq, Eq)]
struct Deaths(BTreeMap<Mark, u32>);

impl Deaths {
    /// Reads a file: the lease that was worked on when it was last written, and the counts before
    /// that. Lines that make no sense are passed over.
    fn parse(text: &str) -> (Option<Mark>, Self) {
        let mut lines = text.lines();
        let mark = |text: &str| {
            u64::from_str_radix(text, 16)
                .ok()
                .map(Mark)
                .filter(|mark| *mark != Mark::NONE)
        };
        let current = lines.next().and_then(mark);
        let mut deaths = Self::default();
        for (lease, count) in lines.filter_map(|line| line.split_once(' ')) {
            if let (Some(lease), Ok(count)) = (mark(lease), count.parse())
                && deaths.0.len() < LEASES
            {
                deaths.0.entry(lease).or_insert(count);
            }
        }
        (current, deaths)
    }

    /// Writes a file that says that no lease is worked on.
    fn text(&self) -> String {
        let mut text = Mark::NONE.line();
        for (Mark(lease), count) in &self.0 {
            writeln!(text, "{lease:016x} {count}").expect("a String takes everything");
        }
        text
    }

    /// Counts a death at work on a lease.
    fn count(&mut self, lease: Mark) {
        let count = self.0.entry(lease).or_default();
        *count = count.saturating_add(1);
    }

    fn of(&self, lease: Mark) -> u32 {
        self.0.get(&lease).copied().unwrap_or(0)
    }

    /// Forgets the deaths of a lease whose work has come to its end. Returns whether there were
    /// any.
    fn acquit(&mut self, lease: Mark) -> bool {
        self.0.remove(&lease).is_some()
    }
}

/// How long the next try is put off after this many deaths, for a lease that lasts that much longer
/// if it does not last for ever: the wait alone is not to lose it.
fn put_off(deaths: u32, rest: Option<Duration>) -> Duration {
    match deaths {
        0 | 1 => Duration::ZERO,
        _ => rest.map_or(LATER, |rest| LATER.min(rest / 4)),
    }
}

/// The file, and what is known from it.
#[derive(Debug)]
pub(crate) struct Journal {
    directory: Rc<StateDirectory>,
    name: OsString,
    file: RefCell<Option<File>>,
    deaths: RefCell<Deaths>,
    /// The lease of which the process before this one died.
    culprit: Cell<Option<Mark>>,
    /// The lease that is worked on.
    current: Cell<Mark>,
    /// That the file cannot be written has been told.
    told: Cell<bool>,
}

impl Journal {
    /// A journal that is to be kept in the file of that name in `directory`.
    pub(crate) fn new(directory: &Rc<StateDirectory>, name: impl Into<OsString>) -> Rc<Self> {
        let (file, deaths) = (RefCell::default(), RefCell::default());
        Rc::new(Self {
            directory: Rc::clone(directory),
            name: name.into(),
            file,
            deaths,
            culprit: Cell::new(None),
            current: Cell::new(Mark::NONE),
            told: Cell::default(),
        })
    }

    /// Opens the file, and takes in what it says of the process before this one.
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
        (&file).take(LONGEST).read_to_end(&mut text)?;
        let (culprit, mut deaths) = Deaths::parse(&String::from_utf8_lossy(&text));
        culprit.iter().for_each(|culprit| deaths.count(*culprit));
        self.culprit.set(culprit);
        let is_new = deaths.text().as_bytes() != text;
        self.deaths.replace(deaths);
        self.file.replace(Some(file));
        if is_new { self.write() } else { Ok(()) }
    }

    /// Makes the file again where it was removed, as with its directory.
    pub(crate) fn keep_file(&self) {
        let is_gone = |file: &File| file.metadata().is_ok_and(|metadata| metadata.nlink() == 0);
        if self.file.borrow().as_ref().is_some_and(is_gone) {
            let opened = self
                .directory
                .open()
                .and_then(|directory| directory.update(&self.name));
            self.tell(opened.and_then(|file| {
                self.file.replace(Some(file));
                self.write()
            }));
        }
    }

    /// Keeps the counts of `leases` alone: others cannot be worked on any more.
    pub(crate) fn keep<'a>(&self, leases: impl IntoIterator<Item = &'a LeaseKey>) {
        if self.deaths.borrow().0.is_empty() {
            return;
        }
        let mut kept = BTreeMap::new();
        for lease in leases.into_iter().map(Mark::of) {
            kept.extend(
                self.deaths
                    .borrow()
                    .0
                    .get(&lease)
                    .map(|count| (lease, *count)),
            );
        }
        if self.deaths.replace(Deaths(kept)) != *self.deaths.borrow() {
            self.tell(self.write());
        }
    }

    /// How far a lease can be trusted.
    pub(crate) fn trust(&self, lease: &LeaseKey) -> Trust {
        Trust::after(self.deaths(lease))
    }

    /// How often the process died of a lease.
    pub(crate) fn deaths(&self, lease: &LeaseKey) -> u32 {
        let deaths = self.deaths.borrow();
        // Nearly always.
        if deaths.0.is_empty() {
            0
        } else {
            deaths.of(Mark::of(lease))
        }
    }

    /// Returns whether the process before this one died of the lease, and then how long its next
    /// try is put off; `rest` is how long the lease lasts if nothing is done.
    pub(crate) fn put_off(&self, lease: &LeaseKey, rest: Option<Duration>) -> Option<Duration> {
        let is_culprit = self
            .culprit
            .get()
            .is_some_and(|culprit| culprit == Mark::of(lease));
        is_culprit.then(|| put_off(self.deaths(lease), rest))
    }

    /// Forgets the deaths of a lease whose work has come to its end, whatever that is.
    pub(crate) fn acquit(&self, lease: &LeaseKey) {
        if !self.deaths.borrow().0.is_empty() && self.deaths.borrow_mut().acquit(Mark::of(lease)) {
            self.tell(self.write());
        }
    }

    /// Counts deaths that did not happen.
    #[cfg(test)]
    pub(crate) fn count(&self, lease: &LeaseKey, deaths: u32) {
        (0..deaths).for_each(|_| self.deaths.borrow_mut().count(Mark::of(lease)));
    }

    /// Forgets all: the process ends because it was asked to.
    pub(crate) fn clear(&self) {
        self.deaths.take();
        self.tell(self.write());
    }

    /// Says that `lease` is worked on, until the guard is dropped.
    pub(crate) fn enter(&self, lease: &LeaseKey) -> JournalStep<'_> {
        self.step(Mark::of(lease))
    }

    fn step(&self, lease: Mark) -> JournalStep<'_> {
        let before = self.current.get();
        self.set_current(lease);
        JournalStep {
            journal: self,
            before,
        }
    }

    fn set_current(&self, lease: Mark) {
        if self.current.replace(lease) != lease
            && let Some(file) = &*self.file.borrow()
        {
            self.tell(file.write_all_at(lease.line().as_bytes(), 0));
        }
    }

    /// Writes the whole file.
    fn write(&self) -> io::Result<()> {
        let file = self.file.borrow();
        let Some(file) = &*file else { return Ok(()) };
        let mut text = self.deaths.borrow().text();
        text.replace_range(..Mark::NONE.line().len(), &self.current.get().line());
        file.write_all_at(text.as_bytes(), 0)?;
        file.set_len(text.len() as u64)
    }

    fn tell(&self, written: io::Result<()>) {
        if let Err(error) = written
            && !self.told.replace(true)
        {
            log::warn!(
                "cannot write {}: {error}; a lease that crashes the daemon is not recognized",
                self.directory.path_of(&self.name).display()
            );
        }
    }

    /// Does `work` for a lease, each step of it noted in the file, its end by a drop as well.
    pub(crate) fn watch<F: Future>(self: &Rc<Self>, lease: &LeaseKey, work: F) -> Work<F> {
        Work {
            journal: Rc::clone(self),
            lease: Mark::of(lease),
            work: Some(Box::pin(work)),
        }
    }
}

/// One step of work for a lease.
#[must_use = "dropped at once, it is over at once"]
pub(crate) struct JournalStep<'a> {
    journal: &'a Journal,
    before: Mark,
}

impl Drop for JournalStep<'_> {
    fn drop(&mut self) {
        self.journal.set_current(self.before);
    }
}

/// The future of [`Journal::watch`].
pub(crate) struct Work<F> {
    journal: Rc<Journal>,
    lease: Mark,
    /// `None` only while it is dropped.
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
