//! The network namespace that is inspected.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use crate::net::netlink::Netlink;
use crate::net::netns::{Netns, NetnsError};
use crate::operator::arguments::Failure;

/// A network namespace: that of this process or another one.
#[derive(Debug)]
pub(super) struct InspectedNamespace {
    /// `None` is that of this process.
    other: Option<Netns>,
    /// The path of another one, for the report.
    pub(super) path: Option<String>,
}

impl InspectedNamespace {
    /// Opens the namespace at `path`; without one, that of this process.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(Self::own());
        };
        let other = Netns::open(path).map_err(|error| {
            let advice = match &error {
                NetnsError::Open { source, .. } | NetnsError::Enter { source, .. } => {
                    advice(source)
                }
                NetnsError::NotANamespace { .. } | NetnsError::OtherKind { .. } => {
                    ": podman inspect CONTAINER shows the path of a container as SandboxKey"
                }
            };
            Failure::Unknown(format!("{error}{advice}"))
        })?;
        // A path to the namespace of this process is no other one.
        match Netns::current() {
            Ok(current) if current.id() == other.id() => Ok(Self::own()),
            _ => Ok(Self {
                other: Some(other),
                path: Some(path.display().to_string()),
            }),
        }
    }

    pub(super) fn own() -> Self {
        Self {
            other: None,
            path: None,
        }
    }

    /// Returns whether it is that of this process.
    pub(super) fn is_own(&self) -> bool {
        self.other.is_none()
    }

    /// Runs `work` inside of it.
    pub(super) fn run<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match &self.other {
            None => work(),
            Some(other) => other.enter(work)?,
        }
    }

    /// Returns whether the number `id`, by which it knows a namespace, is that of this process's.
    pub(super) fn is_here(&self, netlink: &Netlink, id: Option<i32>) -> Result<bool, Failure> {
        let failed = |error: &io::Error| cannot("find the namespace of the parent", error);
        let own = Netns::current().map_err(|error| failed(&error))?;
        let here = netlink.namespace_id(own.as_fd());
        let here = here.map_err(|error| failed(&error.into_io()))?;
        Ok(id.is_some() && id == here)
    }

    /// Opens a netlink socket inside of it.
    pub(super) fn netlink(&self) -> Result<Netlink, Failure> {
        self.run(Netlink::open)
            .map_err(|error| cannot("open a netlink socket", &error))
    }
}

/// Returns the failure of a step that does not belong to the network.
pub(super) fn cannot(step: &str, error: &io::Error) -> Failure {
    Failure::Unknown(format!("cannot {step}: {error}{}", advice(error)))
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => ": run it as root",
        _ => "",
    }
}
