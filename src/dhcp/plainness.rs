//! How much a message asks for: servers that answer no DISCOVER with options that they do not know
//! get a plainer one.

use super::option;

/// The options that are left out of the messages of one exchange. A transaction id tells by its
/// last two bits which of the DISCOVERs of a round a server has answered, so that what follows is
/// as plain as that one, and no plainer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plainness {
    /// None.
    #[default]
    Full,
    /// Rapid commit (80) and, in a DISCOVER, the requested address (50), which may be of another
    /// network.
    NoShortcuts,
    /// The message size (57) and the whole name (81), too, and the parameter request list is
    /// netavark's: this is what netavark's proxy sends.
    LikeNetavark,
    /// Also the client identifier (61) and the host name (12): the server knows the client by its
    /// MAC alone.
    Bare,
}

/// The bits of a transaction id that tell the plainness.
const XID_BITS: u32 = 3;

impl Plainness {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [
        Self::Full,
        Self::NoShortcuts,
        Self::LikeNetavark,
        Self::Bare,
    ];

    /// As many DISCOVERs are full at first; none after them asks for an address.
    pub(super) const FULL_ATTEMPTS: u32 = 2;

    /// Returns the plainness of the `unanswered`-th DISCOVER of a search (1 is the first): two full
    /// ones, for frames do get lost, then step by step. A network that is deaf to all of them may
    /// be a switch port that opens later: until a caller has gone, no DISCOVER is plainer than
    /// netavark's then. In a search that goes on for longer each has its turn.
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

    /// Returns the plainness that a transaction id tells.
    pub(super) fn from_xid(xid: u32) -> Self {
        Self::ALL[(xid & XID_BITS) as usize]
    }

    /// Returns a transaction id that tells this plainness, of the exchange that `xid` belongs to.
    pub(super) fn encode(self, xid: u32) -> u32 {
        xid & !XID_BITS | self as u32
    }

    /// Returns the bit that stands for this plainness in a set.
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
    fn a_transaction_id_tells_the_plainness_of_its_message() {
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
    fn it_gets_plainer_step_by_step_and_then_takes_turns() {
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
