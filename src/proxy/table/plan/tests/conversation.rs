//! The vocabulary of conversations with a plan.

use super::*;

pub(super) struct Conversation {
    pub(super) plan: Plan,
    pub(super) now: Instant,
}

impl Conversation {
    /// A process that a timer can start, and that stays for what is due within 5 s.
    pub(super) fn start() -> Self {
        let mut plan = Plan::new(Duration::from_secs(5));
        plan.set_can_sleep(true);
        Self { plan, now: at(0) }
    }

    pub(super) fn without_sleep() -> Self {
        let mut conversation = Self::start();
        conversation.plan.set_can_sleep(false);
        conversation
    }

    pub(super) fn at(&mut self, second: u64) -> &mut Self {
        self.now = at(second);
        self
    }

    pub(super) fn has(&mut self, number: u16, times: &Times) -> &mut Self {
        self.has_dead(number, times, 0)
    }

    /// The process died `deaths` times while working on this lease.
    pub(super) fn has_dead(&mut self, number: u16, times: &Times, deaths: u32) -> &mut Self {
        self.plan.insert(&key(number), times, deaths, self.now);
        self
    }

    /// A call works on this lease.
    pub(super) fn calls_for(&mut self, number: u16) -> &mut Self {
        self.plan.start_work(&key(number), &Times::default());
        self
    }

    /// Work on these leases starts at once.
    #[track_caller]
    pub(super) fn wakes(&mut self, numbers: &[u16]) -> &mut Self {
        for number in numbers {
            let expected = Action::Wake {
                key: key(*number),
                turn: self.now,
            };
            assert_eq!(self.plan.poll(self.now), expected);
        }
        self
    }

    #[track_caller]
    pub(super) fn defers(&mut self, number: u16, until: u64) -> &mut Self {
        let expected = Action::Defer {
            key: key(number),
            until: at(until),
        };
        assert_eq!(self.plan.poll(self.now), expected);
        // As in its record.
        let times = Times {
            due: Some(at(until)),
            ..hourly()
        };
        self.has(number, &times)
    }

    #[track_caller]
    pub(super) fn sleeps_until(&mut self, second: u64, fallback: f64) -> &mut Self {
        let expected = Action::SleepUntil {
            at: Some(at(second)),
            fallback: Some(at(0) + Duration::from_secs_f64(fallback)),
        };
        assert_eq!(self.plan.poll(self.now), expected);
        self
    }

    #[track_caller]
    pub(super) fn sleeps(&mut self) -> &mut Self {
        let expected = Action::SleepUntil {
            at: None,
            fallback: None,
        };
        assert_eq!(self.plan.poll(self.now), expected);
        self
    }

    #[track_caller]
    pub(super) fn stays(&mut self, reason: StayReason) -> &mut Self {
        assert_eq!(self.plan.poll(self.now), Action::Stay(reason));
        self
    }

    #[track_caller]
    pub(super) fn looks_again(&mut self, second: Option<u64>) -> &mut Self {
        assert_eq!(self.plan.poll_timeout(), second.map(at));
        self
    }

    /// The renewal of this lease got no answer.
    pub(super) fn has_no_answer(&mut self, number: u16) -> &mut Self {
        let now = self.now;
        self.plan
            .mark_unresponsive(&server(1), key(number).mac, now, now);
        self.has(number, &unanswered((now - at(0)).as_secs()))
    }

    /// The server answers, and these deferred renewals are due at T1.
    #[track_caller]
    pub(super) fn hears(&mut self, resumed: &[u16]) -> &mut Self {
        let expected: Vec<_> = resumed.iter().map(|number| key(*number)).collect();
        assert_eq!(self.plan.mark_responsive(&server(1), self.now), expected);
        self
    }
}
