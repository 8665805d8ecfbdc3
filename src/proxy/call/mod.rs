//! A caller's request, its client identifier, and the reply.

pub(crate) mod client_id;
pub(crate) mod reply;
pub(crate) mod request;
