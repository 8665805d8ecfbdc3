//! The numbers of a record that comes out of a file, brought within what this program could have
//! written itself.
//!
//! This is the only place for it: behind it sums of two instants, or of an instant and a time of
//! DHCP, do not overflow, and no lease is due later than a client in that state would have been.

use crate::time::Instant;

use super::{BOUND, ENDING, FAR, INTENT, REBINDING, RENEWING, Record, millis};

/// The longest pause before a link is looked at again, or what failed is tried again.
const LONGEST_PAUSE: u64 = 3_600_000;
/// The pause before an unanswered renewal is repeated is half of the time that is left, or this.
const LEAST_PAUSE: u64 = 60_000;
/// Counters that make pauses longer do so up to a few dozen.
const COUNT: u32 = 100;

impl Record {
    pub(crate) fn within_reason(mut self, now: Instant) -> Self {
        let now_millis = millis(now).unwrap_or(FAR);
        for past in [&mut self.acquired_at, &mut self.since]
            .into_iter()
            .chain(&mut self.silent_since)
        {
            *past = now_millis.min(*past);
        }
        let optional = [
            &mut self.renew_at,
            &mut self.rebind_at,
            &mut self.next_at,
            &mut self.due_at,
        ];
        for future in optional.into_iter().flatten().chain([&mut self.whole_at]) {
            *future = FAR.min(*future);
        }
        for count in [
            &mut self.pace,
            &mut self.setbacks,
            &mut self.looks,
            &mut self.retries,
        ] {
            *count = COUNT.min(*count);
        }
        if self.unsaid {
            self.look_at.get_or_insert(0);
        }
        let latest = now_millis + LONGEST_PAUSE;
        self.look_at = self.look_at.map(|at| at.min(latest));
        // A failure is followed by one more try before the lease ends.
        let end = self.expires_at().filter(|end| *end > now_millis);
        self.retry_at = self
            .retry_at
            .map(|at| at.min(latest).min(end.unwrap_or(latest)));
        if let Some(end) = self.expires_at() {
            self.mend_timers(end, now_millis);
            // Not later than the end, which has to be seen to as well.
            self.retry_at = self.retry_at.map(|at| at.min(end.max(now_millis)));
        }
        self.mend_due(now);
        self
    }

    /// T1 and T2 of a lease that ends, in the order that RFC 2131 4.4.5 has them in.
    fn mend_timers(&mut self, end: u64, now: u64) {
        let (from, lease) = (self.acquired_at, &mut self.lease);
        // A lease of a second or two has timers of fractions of a second, which the file does not
        // show.
        if lease.lease_time > 2
            && !(0 < lease.t1 && lease.t1 < lease.t2 && lease.t2 < lease.lease_time)
        {
            lease.t1 = lease.lease_time / 2;
            lease.t2 = lease.lease_time - lease.lease_time / 8 - 1;
        }
        // Fractions of a second are cut off there.
        let latest = |seconds: u32| (from + (u64::from(seconds) + 1) * 1000).min(end);
        let rebind_at = latest(lease.t2).min(self.rebind_at.unwrap_or(FAR));
        let renew_at = latest(lease.t1)
            .min(self.renew_at.unwrap_or(FAR))
            .min(rebind_at);
        (self.renew_at, self.rebind_at) = (Some(renew_at), Some(rebind_at));
        let limit = match &*self.state {
            RENEWING => rebind_at,
            REBINDING => end,
            _ => return,
        };
        let latest = now + (limit.saturating_sub(now) / 2).max(LEAST_PAUSE);
        self.next_at = self.next_at.map(|next| next.min(latest));
    }

    fn mend_due(&mut self, now: Instant) {
        if [INTENT, ENDING].contains(&&*self.state) {
            self.due_at = Some(0);
        }
        let Some(rest) = self.rest(&self.state).map(|rest| rest.within_reason(now)) else {
            return;
        };
        self.whole_at = millis(rest.whole_at).unwrap_or(FAR);
        let Some(due) = rest.due().and_then(millis) else {
            return;
        };
        let mut latest = due;
        // One whose server does not answer waits for longer.
        if let (BOUND, Some((renew_at, rebind_at))) =
            (&*self.state, self.renew_at.zip(self.rebind_at))
        {
            latest = latest.max(renew_at + rebind_at.saturating_sub(renew_at) / 2);
        }
        self.due_at = Some(self.due_at.map_or(due, |due_at| due_at.min(latest)));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::super::tests::{at, phases, record};
    use super::super::{INIT, Record, State};
    use super::*;
    use crate::dhcp::{Client, Config};
    use crate::mac::Mac;

    const NOW: u64 = 2_900_000;
    const HOUR: u64 = 3_600_000;

    /// Everything that a file may have in the place of a number.
    fn extremes() -> Vec<Value> {
        let numbers = [
            0,
            1,
            NOW,
            NOW + 1,
            1 << 31,
            (1 << 31) - 1,
            1 << 32,
            u32::MAX.into(),
            (1 << 32) - 2,
            FAR,
            FAR + 1,
        ];
        let large = [
            u64::MAX,
            u64::MAX - 1,
            u64::MAX / 1000,
            u64::MAX / 1000 + 1,
            i64::MAX.unsigned_abs(),
            1 << 63,
        ];
        numbers
            .into_iter()
            .chain(large)
            .map(Value::from)
            .chain([json!(-1), json!(1e300), Value::Null])
            .collect()
    }

    /// The names of all fields that hold a number, or hold one at other times.
    fn numeric_fields() -> Vec<String> {
        let mut whole = serde_json::to_value(Record::default()).unwrap();
        for phase in phases() {
            let entry = serde_json::to_value(record(phase)).unwrap();
            for (name, value) in entry.as_object().unwrap() {
                if !value.is_null() {
                    whole[name] = value.clone();
                }
            }
        }
        let fields = whole.as_object().unwrap().iter();
        fields
            .filter(|(_, value)| value.is_number() || value.is_null())
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Has a client go on with a record for four hours in which no server answers, and returns how
    /// often it was woken.
    fn live(record: Record) -> usize {
        let Some(State::Dormant(rest)) = record.recall().map(|remembered| remembered.state) else {
            return 0;
        };
        let mut client = Client::resume(
            Config::new(Mac([2, 0, 0, 0, 0, 1]), Vec::new()),
            rest,
            1,
            at(NOW),
        );
        let (mut time, mut woken, mut out) = (at(NOW), 0, Vec::new());
        loop {
            while client.poll_transmit(&mut out).is_some() {}
            while client.poll_event().is_some() {}
            let rest = client.suspend();
            let Some(due) = client
                .poll_timeout()
                .filter(|due| *due < at(NOW + 4 * HOUR))
            else {
                return woken;
            };
            assert!(due > time, "{due:?} is not after {time:?}: {rest:?}");
            (time, woken) = (due, woken + 1);
            client.handle_timeout(time);
        }
    }

    /// Checks one entry as it would be read from a file.
    fn check(entry: &Value) {
        let Some(record) = Record::parse(entry, at(NOW)) else {
            return;
        };
        let _ = (
            record.may_renew_from(),
            record.too_late(),
            record.silence(),
            record.t1(),
        );
        for until in [0, NOW, FAR] {
            let put_off = record.clone().put_off(at(until));
            assert!(put_off.is_none_or(
                |record| record.rebind_at.is_none() || record.due_at <= record.rebind_at
            ));
        }
        let woken = live(record.clone());
        // As many as messages are allowed, and the steps between them.
        assert!(woken < 4 * 300, "woken {woken} times in four hours");
        let Some(remembered) = record.clone().recall() else {
            return;
        };
        let due = record.due();
        match remembered.state {
            State::Intent | State::Ending(_) => {
                let latest = if record.is_retry() {
                    at(NOW + HOUR)
                } else {
                    at(0)
                };
                assert!(due.is_some_and(|due| due <= latest), "due at {due:?}");
            }
            State::Dormant(_) if record.state == INIT => {
                assert!(
                    due.is_some_and(|due| due <= at(NOW + HOUR)),
                    "looked for at {due:?}"
                );
            }
            State::Dormant(rest) => {
                let Some(end) = rest.lease().unwrap().expires_at() else {
                    return;
                };
                let left = end - at(NOW);
                let latest = if left > Duration::from_secs(120) {
                    at(NOW) + left * 9 / 10
                } else {
                    end
                };
                let latest = latest.max(at(NOW + HOUR)).min(end);
                assert!(
                    due.is_some_and(|due| due <= latest),
                    "due at {due:?}, and the lease ends at {end:?}"
                );
            }
        }
    }

    #[test]
    fn no_number_makes_a_panic_a_loop_or_a_lease_that_is_not_renewed() {
        let fields = numeric_fields();
        for name in [
            "t1",
            "lease_time",
            "acquired_at",
            "due_at",
            "look_at",
            "pace",
            "container_ifindex",
            "mtu",
        ] {
            assert!(
                fields.iter().any(|field| field == name),
                "{name} is not among {fields:?}"
            );
        }
        for phase in phases() {
            let entry = serde_json::to_value(record(phase)).unwrap();
            for field in &fields {
                for extreme in extremes() {
                    for unsaid in [false, true] {
                        let mut entry = entry.clone();
                        entry["unsaid"] = json!(unsaid);
                        entry[field] = extreme.clone();
                        let said = entry.to_string();
                        let checked = std::panic::catch_unwind(|| check(&entry));
                        assert!(checked.is_ok(), "{field} = {extreme}: {said}");
                    }
                }
            }
        }
    }

    #[test]
    fn all_numbers_at_once_are_no_worse() {
        for phase in phases() {
            for extreme in extremes() {
                let mut entry = serde_json::to_value(record(phase.clone())).unwrap();
                for field in numeric_fields() {
                    entry[&field] = extreme.clone();
                    check(&entry);
                }
            }
        }
    }

    #[test]
    fn what_a_client_wrote_stays_as_it_was() {
        for phase in phases() {
            let record = record(phase);
            for written in [
                record.clone(),
                record.clone().ending(),
                record.clone().with_look(),
            ] {
                assert_eq!(written.clone().within_reason(at(NOW)), written);
            }
            // As one whose server does not answer.
            if let Some(held_back) = record.put_off(at(NOW + 60_000)) {
                assert_eq!(held_back.clone().within_reason(at(NOW)), held_back);
            }
        }
    }

    #[test]
    fn timers_and_times_of_a_forged_lease_are_in_order() {
        let of = |changes: Value| {
            let mut entry = serde_json::to_value(record(phases()[0].clone())).unwrap();
            for (name, value) in changes.as_object().unwrap() {
                entry[name] = value.clone();
            }
            Record::parse(&entry, at(NOW)).unwrap()
        };
        // 3600 s from 1000 s on; T1 at 2800 s, T2 at 4150 s.
        assert_eq!(of(json!({"due_at": null})).due(), Some(at(2_800_000)));
        assert_eq!(
            of(json!({"due_at": u64::MAX})).due(),
            Some(at(3_475_000)),
            "as late as one that waits for its server"
        );
        assert_eq!(
            of(json!({"renew_at": null, "due_at": null})).due(),
            Some(at(2_801_000)),
            "T1 to the second"
        );
        assert_eq!(
            of(json!({"t1": 3600, "t2": 3600, "renew_at": null, "due_at": null})).due(),
            Some(at(2_801_000))
        );
        let future = of(
            json!({"acquired_at": u64::MAX, "renew_at": null, "rebind_at": null, "due_at": null}),
        );
        assert_eq!(
            (future.acquired_at, future.due()),
            (NOW, Some(at(NOW + 1_801_000)))
        );
        assert_eq!(
            of(json!({"unsaid": true, "look_at": null})).due(),
            Some(at(0))
        );
        assert_eq!(
            of(json!({"silent_since": u64::MAX})).silence(),
            Some(at(NOW))
        );
        for index in [json!(0), json!(1_u64 << 31)] {
            assert!(
                of(json!({"container_ifindex": index})).recall().is_none(),
                "{index} is no interface"
            );
        }
    }
}
