//! gRPC over a Unix stream: the surface that netavark's client calls, and nothing that knows what a
//! call means.
//!
//! [`serve`] speaks HTTP/2 with one client and turns each of its requests into a [`Call`]; the
//! handler ends it with an [`Answer`] or a [`Status`]. The words on the wire are
//! [`wire`]'s, the ways to say no are [`status`]'s.
//!
//! One limit is h2's and not ours: a request whose `:authority` is no URI authority is reset with
//! PROTOCOL_ERROR before we hear of it. grpc-python makes such a one of a `unix:` path; the channel
//! option `grpc.default_authority=localhost` helps. Any well-formed authority, or none, is welcome.

mod h2_stream;
mod server;
pub mod status;
mod turn;
pub mod wire;

pub use server::serve;
pub use status::{Code, Status};
pub use wire::{
    Answer, Call, Empty, NetavarkLease, NetworkConfig, OperationResponse, Reply, Version,
};
