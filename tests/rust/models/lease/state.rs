//! The files, and where each contender stands.

pub(super) const SEATS: usize = 3;

/// Whose markers are gone for good.
pub(super) const NOBODY: Seat = 7;

/// A contender, by whose token its markers are known.
pub(super) type Seat = u8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Ours,
    /// Of release 3.29.
    Filelock,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Role {
    Reader,
    Writer,
}

/// The next call of a contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum At {
    Idle,
    /// Makes `x.state`.
    Enter,
    /// Renames the `x.state` that it judged.
    EvictState,
    /// Looks at `x.write`.
    Clear,
    /// Looks once more, removes the claim, looks, renames, looks at what came out, removes that: of a stale `x.write`.
    Judge,
    Disown,
    EvictLook,
    EvictTake,
    EvictAside,
    /// Makes its marker, or its claim.
    Publish,
    /// Makes `x.write`.
    Show,
    /// Lists others; a writer does it twice.
    List,
    /// Removes the marker of the contender that it judged.
    Evict,
    /// Makes the name of its number.
    Number,
    ListAgain,
    EvictAgain,
    /// Looks at `x.write`.
    ConfirmWrite,
    /// Looks at `x.state`.
    ConfirmState,
    /// Looks at `x.state`, and removes it.
    LeaveLook,
    LeaveRemove,
    /// Removes the names of smaller numbers.
    Tidy,
    /// Holds, and does nothing.
    Hold,
    /// Of a release or a withdrawal.
    RemoveOwn,
    TakeLook,
    Take,
    TakeAside,
    Dead,
}

/// What leaving the transition leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Then {
    Rest,
    /// With a claim, to begin again.
    Wait,
    Hold,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each may be so in every place")]
pub(super) struct Actor {
    pub(super) kind: Kind,
    pub(super) role: Role,
    pub(super) at: At,
    pub(super) then: Then,
    pub(super) is_stopped: bool,
    /// Which `x.state` it made.
    pub(super) state: Option<u8>,
    /// Whom it judged stale, or which `x.state`.
    pub(super) judged: u8,
    /// What it has renamed away.
    pub(super) aside: Option<Seat>,
    /// Whether its claim is published, as it believes.
    pub(super) claims: bool,
    pub(super) holds: bool,
    /// Whether it was stopped since it published, and when it holds since it was granted: it may have lost its claim, and
    /// learns of it by a heartbeat.
    pub(super) was_stopped: bool,
    pub(super) number: u8,
    pub(super) left: u8,
}

impl Actor {
    pub(super) fn is_stale(&self) -> bool {
        self.is_stopped || self.at == At::Dead
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::struct_field_names, reason = "`x.state` is called so")]
pub(super) struct State {
    pub(super) actors: [Actor; SEATS],
    /// `x.state`: which one, and whose.
    pub(super) state: Option<(u8, Seat)>,
    pub(super) next_state: u8,
    pub(super) write: Option<Seat>,
    /// Bits by seat: the markers of readers, and the claims of writers of ours.
    pub(super) readers: u8,
    pub(super) claims: u8,
    /// Bits by number.
    pub(super) numbers: u16,
    pub(super) last_granted: u8,
    pub(super) is_number_repeated: bool,
    pub(super) stops: u8,
    pub(super) deaths: u8,
}

pub(super) fn bit(seat: Seat) -> u8 {
    1 << seat
}

pub(super) fn seats(bits: u8) -> impl Iterator<Item = Seat> {
    (0..3).filter(move |seat| bits & bit(*seat) != 0)
}

impl State {
    pub(super) fn newest(&self) -> u8 {
        u8::try_from(15 - self.numbers.leading_zeros().min(15)).expect("few numbers")
    }

    /// The names of the states that nobody remembers are used again.
    pub(super) fn normalize(&mut self) {
        let mut names = Vec::new();
        let mut rename = |name: &mut u8| {
            let known = names.iter().position(|known| known == name);
            let index = known.unwrap_or_else(|| {
                names.push(*name);
                names.len() - 1
            });
            *name = u8::try_from(index).expect("few names");
        };
        if let Some((name, _)) = &mut self.state {
            rename(name);
        }
        for actor in &mut self.actors {
            if let Some(name) = &mut actor.state {
                rename(name);
            }
            if actor.at == At::EvictState {
                rename(&mut actor.judged);
            }
        }
        self.next_state = u8::try_from(names.len()).expect("few names");
    }
}
