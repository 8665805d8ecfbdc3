//! What a caller says and gets: a request parsed at the door, its client identifier, and the reply.

pub(crate) mod client_id;
pub(crate) mod reply;
pub(crate) mod request;
