//! gRPC over a Unix stream: the service that netavark's client calls, without its semantics.
//!
//! [`serve`] speaks HTTP/2 with one client and turns each request into a [`Call`]; the handler ends
//! it with an [`Answer`] or a [`Status`]. [`wire`] has the messages, [`status`] the errors.
//!
//! A limitation of h2: a request with an invalid `:authority` is reset with PROTOCOL_ERROR before
//! it gets here. grpc-python sends one for a `unix:` path; the channel option
//! `grpc.default_authority=localhost` helps. Any valid authority is accepted, and so is none.

pub mod client;
mod h2_stream;
mod server;
pub mod status;
mod turn;
pub mod wire;

pub use server::{serve, serve_counted};
pub use status::{Code, Status};
pub use wire::{
    Answer, Call, Empty, LeaseIdentity, LeaseOutcome, LeaseOutcomes, LeaseResult, LeaseSelection,
    NetavarkLease, NetworkConfig, OperationResponse, Reply, Version,
};
