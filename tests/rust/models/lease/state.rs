//! The files, and where each contender stands.

pub(super) const SEATS: usize = 3;

/// A contender.
pub(super) type Seat = u8;

/// What a marker says: whose it is. A contender that publishes anew has another one, and its old ones stay told from it
/// and from each other for as long as anybody remembers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Token {
    pub(super) owner: Seat,
    /// 0: the present one.
    pub(super) past: u8,
}

impl Token {
    pub(super) fn of(owner: Seat) -> Self {
        Self { owner, past: 0 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Ours,
    /// Of release 3.29.
    Filelock,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Role {
    Reader,
    Writer,
    /// A thread of the process of the seat before, that reads once more while that process has a hold (`join_reader`).
    Nested,
}

/// The next call of a contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// Looks whether the hold that it nests in is there.
    Join,
    /// Lists others; a writer does it twice.
    List,
    /// Looks at one of them.
    Look,
    /// Removes the marker of the contender that it judged.
    Evict,
    /// Makes the name of its number.
    Number,
    ListAgain,
    LookAgain,
    EvictAgain,
    /// Looks at `x.write`.
    ConfirmWrite,
    /// Looks at `x.state`.
    ConfirmState,
    /// Looks at its clock, and then holds.
    CheckClock,
    Grant,
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

/// What follows when this is done: most often, when the transition is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Then {
    Rest,
    /// With a claim, to begin again.
    Wait,
    Hold,
    /// What looking at those who were listed leads to: a number anew.
    ListAgain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each may be so in every place")]
pub(super) struct Actor {
    pub(super) kind: Kind,
    pub(super) role: Role,
    pub(super) at: At,
    pub(super) then: Then,
    pub(super) is_stopped: bool,
    /// Which `x.state` it made, or is about to take away.
    pub(super) state: Option<u8>,
    pub(super) judged_state: u8,
    /// What it judged stale, or what it withdraws.
    pub(super) judged: Option<Token>,
    /// What it has renamed away.
    pub(super) aside: Option<Token>,
    /// Bits by seat: whom it has listed and not looked at yet.
    pub(super) listed: u8,
    /// Whether its claim is published, as it believes.
    pub(super) claims: bool,
    pub(super) holds: bool,
    /// Whether it was stopped since it published, and from when it last looked at its clock: it may have lost its claim, and
    /// learns of it by a heartbeat.
    pub(super) was_stopped: bool,
    /// The number that it claims; 0: none, or it was not the greatest.
    pub(super) number: u8,
    pub(super) left: u8,
}

/// The folder of readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct Folder {
    /// Bits by seat: the markers of readers, and the claims of writers of ours.
    pub(super) readers: u8,
    pub(super) claims: u8,
    /// Bits by number.
    pub(super) numbers: u32,
}

impl Folder {
    pub(super) fn newest(self) -> u8 {
        u8::try_from(self.numbers.checked_ilog2().unwrap_or(0)).expect("few numbers")
    }

    pub(super) fn has(self, seat: Seat) -> bool {
        (self.readers | self.claims) & bit(seat) != 0
    }

    pub(super) fn remove(&mut self, seat: Seat) {
        self.readers &= !bit(seat);
        self.claims &= !bit(seat);
    }
}

const NUMBERS: usize = 32;

/// By how many changes of the folder a listing can be late.
pub(super) const LAG: usize = 2;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::struct_field_names, reason = "`x.state` is called so")]
pub(super) struct State {
    pub(super) actors: [Actor; SEATS],
    /// `x.state`: which one, and whose.
    pub(super) state: Option<(u8, Seat)>,
    pub(super) next_state: u8,
    pub(super) write: Option<Token>,
    pub(super) folder: Folder,
    /// As the folder was before its last changes, the latest first; what is not listed late is not kept.
    pub(super) before: [Folder; LAG],
    /// Bits: the numbers that were granted.
    pub(super) granted: u32,
    pub(super) is_number_repeated: bool,
    /// Somebody's hold was lost, is over, and it was not told.
    pub(super) is_untold: bool,
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
    pub(super) fn actor(&self, seat: Seat) -> &Actor {
        &self.actors[usize::from(seat)]
    }

    /// Whether the contender does nothing, for longer than the threshold.
    pub(super) fn is_silent(&self, seat: Seat) -> bool {
        self.actor(seat).is_stopped || self.actor(seat).at == At::Dead
    }

    /// Whether nobody refreshes or removes what says so.
    pub(super) fn is_stale(&self, token: Token) -> bool {
        let owner = self.actor(token.owner);
        let is_withdrawing =
            matches!(owner.at, At::TakeLook | At::Take | At::TakeAside) && owner.judged == Some(token);
        self.is_silent(token.owner) || token.past > 0 && !is_withdrawing
    }

    /// The seat of the process that `seat` is a thread of, or the other way round.
    pub(super) fn other_thread(&self, seat: Seat) -> Option<Seat> {
        let is_nested =
            |seat: Seat| self.actors.get(usize::from(seat)).is_some_and(|a| a.role == Role::Nested);
        if is_nested(seat) { seat.checked_sub(1) } else { Some(seat + 1).filter(|next| is_nested(*next)) }
    }

    fn tokens(&mut self) -> impl Iterator<Item = &mut Token> {
        let remembered = self.actors.iter_mut().flat_map(|actor| [&mut actor.judged, &mut actor.aside]);
        [&mut self.write].into_iter().chain(remembered).flatten()
    }

    /// The contender has no present token any more.
    pub(super) fn retire(&mut self, seat: Seat) -> Token {
        for token in self.tokens().filter(|token| token.owner == seat) {
            token.past += 1;
        }
        for before in &mut self.before {
            before.remove(seat);
        }
        for actor in &mut self.actors {
            actor.listed &= !bit(seat);
        }
        Token { owner: seat, past: 1 }
    }

    /// Makes one state of those that differ in nothing that matters.
    pub(super) fn normalize(&mut self) {
        self.forget();
        self.rename_states();
        self.rename_tokens();
        self.renumber();
    }

    fn forget(&mut self) {
        for actor in &mut self.actors {
            let removes = matches!(actor.at, At::TakeLook | At::Take | At::TakeAside);
            let evicts = matches!(
                actor.at,
                At::Judge
                    | At::Disown
                    | At::EvictLook
                    | At::EvictTake
                    | At::EvictAside
                    | At::Evict
                    | At::EvictAgain
            );
            if !removes && !evicts {
                actor.judged = None;
            }
            if actor.at != At::EvictState {
                actor.judged_state = 0;
            }
            if actor.at <= At::Publish || actor.at >= At::Hold {
                (actor.number, actor.listed) = (0, 0);
            }
            if !actor.claims {
                actor.was_stopped = false;
            }
            let is_waiting = actor.kind == Kind::Filelock && actor.then == Then::Wait;
            let is_listing = matches!(actor.at, At::LookAgain | At::EvictAgain);
            if !matches!(actor.at, At::LeaveLook | At::LeaveRemove) && !is_waiting && !is_listing {
                actor.then = Then::Rest;
            }
        }
    }

    fn rename_states(&mut self) {
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
                rename(&mut actor.judged_state);
            }
        }
        self.next_state = u8::try_from(names.len()).expect("few names");
    }

    fn rename_tokens(&mut self) {
        let mut known: Vec<Token> = Vec::new();
        for token in self.tokens().filter(|token| token.past > 0) {
            let rank = known.iter().filter(|known| known.owner == token.owner);
            let place = rank.clone().position(|known| known == token).unwrap_or_else(|| rank.count());
            if !known.contains(token) {
                known.push(*token);
            }
            token.past = u8::try_from(place + 1).expect("few tokens");
        }
    }

    /// Of the numbers only those count that somebody has, was granted last, or may still claim, by a listing however
    /// late; and of those only the order, and which ones follow each other.
    fn renumber(&mut self) {
        let newest =
            |numbers: u32| numbers & 1_u32.checked_shl(numbers.checked_ilog2().unwrap_or(0)).unwrap_or(0);
        let mut used = 1 << 1 | newest(self.folder.numbers) | newest(self.granted);
        for before in &mut self.before {
            before.numbers = newest(before.numbers);
            used |= before.numbers | before.numbers << 1;
        }
        for actor in &self.actors {
            used |= 1 << actor.number;
        }
        let (mut new, mut last, mut next) = ([0; NUMBERS], 0, 0);
        for number in (1..NUMBERS).filter(|number| used & 1 << number != 0) {
            next += if number - last > 1 { 2 } else { 1 };
            (new[number], last) = (next, number);
        }
        let renamed = |bits: u32| {
            let kept = (1..NUMBERS).filter(|number| bits & used & 1 << number != 0);
            kept.fold(0, |all, number| all | 1 << new[number])
        };
        self.folder.numbers = renamed(self.folder.numbers);
        self.granted = renamed(self.granted);
        for before in &mut self.before {
            before.numbers = renamed(before.numbers);
        }
        for actor in &mut self.actors {
            actor.number = new[usize::from(actor.number)];
        }
    }

    /// The same with the seats renamed.
    pub(super) fn with_seats(&self, new: [Seat; SEATS]) -> Self {
        let mut state = self.clone();
        let rename = |seat: Seat| new[usize::from(seat)];
        let rename_bits = |bits: u8| seats(bits).fold(0, |all, seat| all | bit(rename(seat)));
        for (seat, actor) in self.actors.iter().enumerate() {
            let listed = rename_bits(actor.listed);
            state.actors[usize::from(new[seat])] = Actor { listed, ..*actor };
        }
        for token in state.tokens() {
            token.owner = rename(token.owner);
        }
        if let Some((_, owner)) = &mut state.state {
            *owner = rename(*owner);
        }
        for folder in [&mut state.folder].into_iter().chain(&mut state.before) {
            (folder.readers, folder.claims) = (rename_bits(folder.readers), rename_bits(folder.claims));
        }
        state.rename_states();
        state.rename_tokens();
        state
    }
}
