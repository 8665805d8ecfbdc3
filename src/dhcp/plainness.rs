//! The options that messages leave out: a server that does not answer a DISCOVER, because of an
//! option that it does not know, gets one with fewer options.

use super::option;

/// The options that the messages of one exchange leave out. The last two bits of a transaction id
/// encode the plainness, so that a reply tells which DISCOVER of a round the server has answered.
/// The next messages have the same plainness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plainness {
    /// None.
    #[default]
    Full,
    /// Rapid commit (80) and, in a DISCOVER, the requested address (50), which may be of another
    /// network.
    NoShortcuts,
    /// Also the message size (57) and the fully qualified name (81). The parameter request list is
    /// that of netavark's proxy, and so is the message.
    LikeNetavark,
    /// Also the client identifier (61) and the host name (12): the server knows the client by its
    /// MAC alone.
    Bare,
}

/// The bits of a transaction id that encode the plainness.
const XID_BITS: u32 = 3;

impl Plainness {
    /// All values, in order.
    pub const ALL: [Self; 4] = [
        Self::Full,
        Self::NoShortcuts,
        Self::LikeNetavark,
        Self::Bare,
    ];

    /// The number of full DISCOVERs at first. Only these request an address.
    pub(super) const FULL_ATTEMPTS: u32 = 2;

    /// Returns the plainness of the `unanswered`-th DISCOVER of a search (1 is the first): two full
    /// ones, in case a frame is lost, then plainer step by step. If all of these are unanswered, a
    /// switch port may still be closed. The next ones, while a caller may wait, are no plainer than
    /// netavark's. In a longer search the values take turns.
    pub(super) fn for_discover(unanswered: u32) -> Self {
        match unanswered {
            0..=Self::FULL_ATTEMPTS => Self::Full,
            3 => Self::NoShortcuts,
            4 => Self::LikeNetavark,
            5 => Self::Bare,
            6 | 8 | 10 => Self::Full,
            7 | 9 => Self::LikeNetavark,
            later => [Self::Full, Self::LikeNetavark, Self::Bare][(later % 3) as usize],
        }
    }

    /// Returns the plainness that a transaction id encodes.
    pub(super) fn from_xid(xid: u32) -> Self {
        Self::ALL[(xid & XID_BITS) as usize]
    }

    /// Returns the transaction id `xid` with this plainness encoded in it.
    pub(super) fn encode(self, xid: u32) -> u32 {
        xid & !XID_BITS | self as u32
    }

    /// Returns the bit of this plainness in a set.
    pub(super) fn bit(self) -> u8 {
        1 << self as u8
    }

    pub(super) fn has_rapid_commit(self) -> bool {
        self < Self::NoShortcuts
    }

    pub(super) fn has_message_size(self) -> bool {
        self < Self::LikeNetavark
    }

    pub(super) fn has_fqdn(self) -> bool {
        self < Self::LikeNetavark
    }

    pub(super) fn has_client_id(self) -> bool {
        self < Self::Bare
    }

    pub(super) fn has_host_name(self) -> bool {
        self < Self::Bare
    }

    /// Returns the parameter request list (option 55).
    pub(super) fn parameters(self) -> &'static [u8] {
        match self {
            Self::Full | Self::NoShortcuts => &option::PARAMETERS,
            Self::LikeNetavark => &option::NETAVARK_PARAMETERS,
            Self::Bare => &option::MINIMAL_PARAMETERS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_id_encodes_the_plainness() {
        for plainness in Plainness::ALL {
            for xid in [0, 1, 2, 3, 0xdead_beef, u32::MAX] {
                let marked = plainness.encode(xid);
                assert_eq!(
                    (Plainness::from_xid(marked), marked | XID_BITS),
                    (plainness, xid | XID_BITS)
                );
            }
        }
    }

    #[test]
    fn discovers_get_plainer_step_by_step_and_then_take_turns() {
        use Plainness::{Bare, Full, LikeNetavark, NoShortcuts};
        let steps = (1..=14).map(Plainness::for_discover);
        let first = [
            Full,
            Full,
            NoShortcuts,
            LikeNetavark,
            Bare,
            Full,
            LikeNetavark,
            Full,
            LikeNetavark,
            Full,
        ];
        let expected = [&first[..], &[Bare, Full, LikeNetavark, Bare]].concat();
        assert_eq!(steps.collect::<Vec<_>>(), expected);
    }
}
