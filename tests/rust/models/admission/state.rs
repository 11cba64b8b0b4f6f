//! The kernel's locks, and where each participant stands.

use super::{Config, Who};

/// A participant by its place in the crew; and an open file description of its: the one that it waits with.
pub(super) type Seat = u8;

/// The other description of a participant, on which it looks past the line or nests.
pub(super) fn other(seat: Seat) -> Seat {
    seat + 4
}

/// What a participant does next. The names are those of `mechanism/byte_range/` and `sys/ranges_ofd.rs`, where they have
/// any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Pc {
    /// Has not come yet. Then, of an attempt: `is_line_occupied`.
    Come,
    /// A reader looks at PENDING (`in_the_way`). SQLite's takes it for a moment.
    Ask,
    /// Takes SHARED (`set`), or the writer all three in one call (`try_write`).
    Take,
    /// `wait_for_turn`
    Line,
    /// `wait_to_write` and `claim`: RESERVED.
    Reserved,
    /// `wait_to_write` and `wait_to_read`, and `claim`: PENDING.
    Pending,
    /// The same: SHARED.
    Shared,
    /// Has found the lock free past a line, and is about to give it back for those in line (`Head::tick`).
    Probed,
    /// Between two attempts past the line, for it cannot wait in the kernel (`Head::nap`).
    Nap,
    /// Between two attempts (`wait::poll`).
    Pause,
    /// SQLite lets go of PENDING when it has SHARED as a reader.
    Unpend,
    Inside,
    /// Reads through two lock objects.
    InsideTwice,
    /// Reads through the second one only.
    StillInside,
    Done,
}

/// A lock of one of the three ranges, by descriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Lock {
    owner: Option<Seat>,
    /// Bits.
    sharers: u8,
}

impl Lock {
    pub(super) fn share(&mut self, description: Seat) -> bool {
        if self.owner.is_some_and(|owner| owner != description) {
            return false;
        }
        self.owner = None;
        self.sharers |= 1 << description;
        true
    }

    pub(super) fn own(&mut self, description: Seat) -> bool {
        if !self.is_free_for(description) {
            return false;
        }
        *self = Self { owner: Some(description), sharers: 0 };
        true
    }

    pub(super) fn free(&mut self, description: Seat) {
        self.owner = self.owner.filter(|owner| *owner != description);
        self.sharers &= !(1 << description);
    }

    /// Whether no other description has it in any way.
    fn is_free_for(self, description: Seat) -> bool {
        self.owner.is_none_or(|owner| owner == description) && self.sharers & !(1 << description) == 0
    }

    pub(super) fn has_other_owner(self, description: Seat) -> bool {
        self.owner.is_some_and(|owner| owner != description)
    }

    /// Whether somebody else than this participant has it in any way, or exclusively.
    pub(super) fn is_of_others(self, seat: Seat, exclusively: bool) -> bool {
        let own = 1 << seat | 1 << other(seat);
        let owner = self.owner.map_or(0, |owner| 1 << owner);
        (if exclusively { owner } else { owner | self.sharers }) & !own != 0
    }

    fn is_of(self, seat: Seat) -> bool {
        let own = 1 << seat | 1 << other(seat);
        (self.owner.map_or(0, |owner| 1 << owner) | self.sharers) & own != 0
    }

    /// The participant that has it exclusively.
    pub(super) fn owner(self) -> Option<Seat> {
        self.owner.map(|owner| owner % 4)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) at: Vec<Pc>,
    /// Bits: who has found the lock free past the line once.
    pub(super) has_probed: u8,
    pub(super) stopped: Option<Seat>,
    /// Whether somebody may still be stopped.
    pub(super) may_stop: bool,
    /// The first has the turnstile.
    pub(super) line: Vec<Seat>,
    pub(super) reserved: Lock,
    pub(super) pending: Lock,
    pub(super) shared: Lock,
    /// Bits, four for each participant: it came when these writers had PENDING.
    pub(super) late: u16,
}

impl State {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            at: vec![Pc::Come; config.who.len()],
            has_probed: 0,
            stopped: None,
            may_stop: config.is_stopped,
            line: Vec::new(),
            reserved: Lock::default(),
            pending: Lock::default(),
            shared: Lock::default(),
            late: 0,
        }
    }

    pub(super) fn pc(&self, seat: Seat) -> Pc {
        self.at[usize::from(seat)]
    }

    pub(super) fn go(&mut self, seat: Seat, pc: Pc) {
        self.at[usize::from(seat)] = pc;
    }

    pub(super) fn seats(&self) -> impl Iterator<Item = Seat> + use<> {
        0..u8::try_from(self.at.len()).unwrap_or(0)
    }

    pub(super) fn unlock(&mut self, description: Seat) {
        self.reserved.free(description);
        self.pending.free(description);
        self.shared.free(description);
    }

    pub(super) fn leave_line(&mut self, seat: Seat) {
        self.line.retain(|waiting| *waiting != seat);
        self.has_probed &= !(1 << seat);
    }

    /// Its descriptions are closed.
    pub(super) fn end(&mut self, seat: Seat) {
        self.leave_line(seat);
        self.unlock(seat);
        self.unlock(other(seat));
        self.forget_late(seat);
        self.go(seat, Pc::Done);
    }

    /// It waits for nobody any more, and nobody for its claim.
    pub(super) fn forget_late(&mut self, seat: Seat) {
        self.late &= !(0xF << (4 * seat));
        for late in self.seats() {
            self.late &= !(1 << (4 * late + seat));
        }
    }

    pub(super) fn is_late_for(&self, seat: Seat, writer: Seat) -> bool {
        self.late & 1 << (4 * seat + writer) != 0
    }

    pub(super) fn is_stopped(&self, seat: Seat) -> bool {
        self.stopped == Some(seat)
    }

    pub(super) fn is_inside(&self, seat: Seat) -> bool {
        matches!(self.pc(seat), Pc::Inside | Pc::InsideTwice | Pc::StillInside)
    }

    /// Whether it has come, is not stopped, and has not got the lock.
    pub(super) fn waits(&self, seat: Seat) -> bool {
        !self.is_stopped(seat) && !self.is_inside(seat) && !matches!(self.pc(seat), Pc::Come | Pc::Done)
    }

    pub(super) fn has_any_lock(&self, seat: Seat) -> bool {
        self.reserved.is_of(seat) || self.pending.is_of(seat) || self.shared.is_of(seat)
    }

    /// Nothing but its own claim is in its way.
    pub(super) fn is_free_for(&self, config: &Config, seat: Seat) -> bool {
        if config.who(seat).writes() {
            [self.reserved, self.pending, self.shared].iter().all(|lock| !lock.is_of_others(seat, false))
        } else {
            [self.pending, self.shared].iter().all(|lock| !lock.is_of_others(seat, true))
        }
    }

    /// Whether the head of the line is stopped.
    pub(super) fn is_line_stuck(&self) -> bool {
        self.line.first().is_some_and(|head| self.is_stopped(*head))
    }
}

impl Who {
    pub(super) fn writes(self) -> bool {
        matches!(self, Self::Writer | Self::HastyWriter | Self::PollingWriter | Self::SqliteWriter)
    }

    pub(super) fn is_hasty(self) -> bool {
        matches!(self, Self::HastyReader | Self::HastyWriter)
    }

    pub(super) fn polls(self) -> bool {
        matches!(self, Self::PollingReader | Self::PollingWriter)
    }

    pub(super) fn is_sqlite(self) -> bool {
        matches!(self, Self::SqliteReader | Self::SqliteWriter)
    }

    /// Whether it waits in the kernel.
    pub(super) fn blocks(self) -> bool {
        matches!(self, Self::Reader | Self::Writer | Self::NestingReader)
    }
}
