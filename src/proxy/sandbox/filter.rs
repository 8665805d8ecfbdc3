//! Compiles a filter for seccomp(2): a search tree over system call numbers.
//!
//! The kernel runs a new filter once for every number, to cache the calls that are always allowed.
//! A linear list takes most of a millisecond for that, a tree some microseconds.

use std::collections::BTreeMap;
use std::io;

use nix::libc;
use seccompiler::{BpfProgram, sock_filter};

/// The decision about a system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Allow,
    /// Allowed if all tests of any row pass, else refused.
    When(Vec<Vec<ArgumentTest>>),
    /// Fails with ENOSYS.
    Enosys,
    Refuse,
}

/// The result of a refused call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Fails with ENOSYS: newer programs have a fallback for a missing call, but not for EPERM.
    Enosys,
    /// Kills the process with SIGSYS.
    Kill,
}

/// A test of the lower 32 bits of an argument, which hold an `int` or flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ArgumentTest {
    argument: u32,
    mask: u32,
    value: u32,
    equal: bool,
}

impl ArgumentTest {
    pub(super) fn is(argument: u32, value: i32) -> Self {
        Self {
            argument,
            mask: u32::MAX,
            value: value as u32,
            equal: true,
        }
    }

    pub(super) fn is_not(argument: u32, value: i32) -> Self {
        Self {
            equal: false,
            ..Self::is(argument, value)
        }
    }

    /// Passes if all of `bits` are set.
    pub(super) fn has(argument: u32, bits: i32) -> Self {
        Self {
            mask: bits as u32,
            ..Self::is(argument, bits)
        }
    }

    /// Passes if none of `bits` is set.
    pub(super) fn lacks(argument: u32, bits: i32) -> Self {
        Self {
            mask: bits as u32,
            ..Self::is(argument, 0)
        }
    }
}

/// Verdicts by number; all other calls are refused.
#[derive(Debug, Default)]
pub(super) struct Filter(BTreeMap<u32, Verdict>);

// The architecture in linux/audit.h.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: Option<u32> = Some(0xc000_003e);
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: Option<u32> = Some(0xc000_00b7);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURE: Option<u32> = None;

// linux/filter.h and linux/seccomp.h. Arguments are little endian on both processors.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;
const RETURN_ALLOW: u32 = 0x7fff_0000;
const RETURN_ENOSYS: u32 = 0x0005_0000 | libc::ENOSYS as u32;
const RETURN_KILL: u32 = 0x8000_0000;

impl Filter {
    pub(super) fn insert(&mut self, verdicts: impl IntoIterator<Item = (i64, Verdict)>) {
        self.0.extend(
            verdicts
                .into_iter()
                .map(|(call, verdict)| (call as u32, verdict)),
        );
    }

    /// Compiles the program.
    ///
    /// # Errors
    ///
    /// The processor is not supported.
    pub(super) fn compile(&self, refusal: Refusal) -> io::Result<BpfProgram> {
        let architecture = ARCHITECTURE.ok_or(io::ErrorKind::Unsupported)?;
        let refused = if refusal == Refusal::Kill {
            RETURN_KILL
        } else {
            RETURN_ENOSYS
        };
        // Call numbers of another architecture mean other calls.
        let mut program = vec![
            plain(LOAD, ARCHITECTURE_AT),
            sock_filter {
                code: IF_EQUAL,
                jt: 1,
                jf: 0,
                k: architecture,
            },
            plain(RETURN, RETURN_KILL),
            plain(LOAD, NUMBER_AT),
        ];
        program.extend(tree(&self.ranges(), refused));
        Ok(program)
    }

    /// Returns the first number of each range with the same verdict, from zero.
    fn ranges(&self) -> Vec<(u32, &Verdict)> {
        let mut ranges = vec![(0, &Verdict::Refuse)];
        for (&call, verdict) in &self.0 {
            for (start, verdict) in [(call, verdict), (call + 1, &Verdict::Refuse)] {
                // Drops an empty range, and merges ranges with the same verdict.
                ranges.pop_if(|(last, _)| *last == start);
                if ranges.last().is_none_or(|(_, last)| *last != verdict) {
                    ranges.push((start, verdict));
                }
            }
        }
        ranges
    }
}

/// Compiles the search for the loaded number. Every path ends with a return.
fn tree(ranges: &[(u32, &Verdict)], refused: u32) -> BpfProgram {
    if let [(_, verdict)] = ranges {
        return leaf(verdict, refused);
    }
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let below = tree(lower, refused);
    let mut program = match u8::try_from(below.len()) {
        Ok(length) => vec![sock_filter {
            code: IF_AT_LEAST,
            jt: length,
            jf: 0,
            k: upper[0].0,
        }],
        // A conditional jump reaches 255 instructions at most.
        Err(_) => vec![
            sock_filter {
                code: IF_AT_LEAST,
                jt: 0,
                jf: 1,
                k: upper[0].0,
            },
            plain(JUMP, below.len() as u32),
        ],
    };
    program.extend(below);
    program.extend(tree(upper, refused));
    program
}

fn leaf(verdict: &Verdict, refused: u32) -> BpfProgram {
    let rows = match verdict {
        Verdict::Allow => return vec![plain(RETURN, RETURN_ALLOW)],
        Verdict::Enosys => return vec![plain(RETURN, RETURN_ENOSYS)],
        Verdict::Refuse => &[][..],
        Verdict::When(rows) => rows,
    };
    let mut program = Vec::new();
    for row in rows {
        for (index, test) in row.iter().enumerate() {
            // Skips the remaining tests of three instructions each, and the return.
            let next = 3 * (row.len() - index - 1) as u8 + 1;
            let (jt, jf) = if test.equal { (0, next) } else { (next, 0) };
            program.extend([
                plain(LOAD, ARGUMENTS_AT + 8 * test.argument),
                plain(AND, test.mask),
                sock_filter {
                    code: IF_EQUAL,
                    jt,
                    jf,
                    k: test.value,
                },
            ]);
        }
        program.push(plain(RETURN, RETURN_ALLOW));
    }
    program.push(plain(RETURN, refused));
    program
}

fn plain(code: u16, k: u32) -> sock_filter {
    sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program for a call and returns its result.
    fn returns(program: &[sock_filter], architecture: u32, call: u32, arguments: [u64; 6]) -> u32 {
        let (mut at, mut loaded) = (0, 0);
        loop {
            let instruction = &program[at];
            let jump = |is: bool| usize::from(if is { instruction.jt } else { instruction.jf });
            at += 1;
            match instruction.code {
                LOAD => {
                    loaded = match instruction.k {
                        NUMBER_AT => call,
                        ARCHITECTURE_AT => architecture,
                        offset => arguments[(offset - ARGUMENTS_AT) as usize / 8] as u32,
                    }
                }
                AND => loaded &= instruction.k,
                JUMP => at += instruction.k as usize,
                IF_EQUAL => at += jump(loaded == instruction.k),
                IF_AT_LEAST => at += jump(loaded >= instruction.k),
                RETURN => return instruction.k,
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn each_number_gets_its_own_verdict() {
        // Adjacent numbers, gaps, both ends, and enough of them for long jumps.
        let mut filter = Filter::default();
        filter.insert(
            (0..900)
                .filter(|call| call % 3 != 1)
                .map(|call| (call, Verdict::Allow)),
        );
        filter.insert([
            (4, Verdict::Enosys),
            (5, Verdict::When(vec![vec![ArgumentTest::is(0, 1)]])),
        ]);
        let architecture = ARCHITECTURE.unwrap();
        let program = filter.compile(Refusal::Kill).unwrap();
        for call in 0..1000 {
            let expected = match call {
                4 => RETURN_ENOSYS,
                5 => RETURN_KILL,
                _ if call < 900 && call % 3 != 1 => RETURN_ALLOW,
                _ => RETURN_KILL,
            };
            assert_eq!(
                returns(&program, architecture, call, [0; 6]),
                expected,
                "{call}"
            );
        }
        assert_eq!(returns(&program, architecture, 5, [1; 6]), RETURN_ALLOW);
        assert_eq!(
            returns(&program, architecture, u32::MAX, [0; 6]),
            RETURN_KILL
        );
        assert_eq!(returns(&program, architecture + 1, 0, [0; 6]), RETURN_KILL);
    }

    #[test]
    fn tests_look_at_the_half_that_the_kernel_looks_at() {
        let mut filter = Filter::default();
        let both = vec![ArgumentTest::is_not(1, 7), ArgumentTest::is_not(1, 9)];
        filter.insert([
            (1, Verdict::When(vec![both])),
            (
                2,
                Verdict::When(vec![
                    vec![ArgumentTest::lacks(2, 4)],
                    vec![ArgumentTest::lacks(2, 8)],
                ]),
            ),
            (3, Verdict::When(vec![vec![ArgumentTest::has(0, 3)]])),
        ]);
        let program = filter.compile(Refusal::Enosys).unwrap();
        let allowed = |call, arguments| {
            returns(&program, ARCHITECTURE.unwrap(), call, arguments) == RETURN_ALLOW
        };
        let second = |value: u64| allowed(1, [0, value, 0, 0, 0, 0]);
        assert_eq!(
            [6, 7, 8, 9, 1 << 32 | 7].map(second),
            [true, false, true, false, false]
        );
        let third = |value| allowed(2, [0, 0, value, 0, 0, 0]);
        assert_eq!([0, 4, 8, 12].map(third), [true, true, true, false]);
        let first = |value| allowed(3, [value, 0, 0, 0, 0, 0]);
        assert_eq!([0, 1, 3, 7].map(first), [false, false, true, true]);
    }
}
