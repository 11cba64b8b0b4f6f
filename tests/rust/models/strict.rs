//! Strict locks: every interleaving of what a few contenders do in the folder of claims.
//!
//! A state is the names in the folder and where each contender stands; a step is one system call, an end of a process, or
//! somebody's removal of a dead one's claim. A contender may be stopped for any time between two of its calls.
//!
//! Reading the claims takes many calls, and others go on meanwhile. What it finds is then any set that has all names that
//! were there from its beginning to its end, and none that never were: that much a listing promises, and no more.
//!
//! filelock's contenders do the same as ours. Those of 3.30.0 to 3.30.3 ([`Kind::Early`]) drop the first name of their
//! claim when they have won, and lose a holder by that.
//!
//! Bounds. Three contenders that make an attempt each, or two that make two each; one crash, at any call, of two; any token
//! for each attempt. Large, ignored: a crash among three, and among two that make two each. Not modelled: the sentinel, which is made once and stays, and time, for nothing goes by it.

#![expect(clippy::expect_used, reason = "a model that outgrows its tables has to be changed")]

use std::collections::BTreeSet;

use stateright::{Checker, HasDiscoveries, Model, Property};

const ONE_HOLDER: &str = "at most one contender holds";
const CLAIMED: &str = "a holder's claim is there";
const CLEAN: &str = "when all is quiet, only the dead have claims";
const ALL_HELD: &str = "everybody has held";
const KEPT_OUT: &str = "a dead one's claim keeps somebody out";
const NOBODY: &str = "two keep each other out";

const CONTENDERS: usize = 3;
const TOKENS: u8 = 6;

/// What contenders do. Each field that is false is a mistake.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a part of the protocol")]
struct Rules {
    /// Who has published gives way to a claim that is held.
    gives_way_to_held: bool,
    /// Who has published gives way to a smaller token.
    gives_way_to_smaller: bool,
    /// Who has its second name reads the claims again.
    verifies: bool,
    /// Who reads the claims has published its own before.
    publishes_first: bool,
    /// A listing has all names that were there all the while.
    lists_all: bool,
    /// Nobody takes another's claim for a dead one's.
    leaves_claims_alone: bool,
}

const RIGHT: Rules = Rules {
    gives_way_to_held: true,
    gives_way_to_smaller: true,
    verifies: true,
    publishes_first: true,
    lists_all: true,
    leaves_claims_alone: true,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Ours,
    Early,
}

/// The names in the folder: a bit for each token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Names {
    intents: u8,
    helds: u8,
}

impl Names {
    fn tokens(self) -> u8 {
        self.intents | self.helds
    }

    fn smallest(self) -> Option<u8> {
        let tokens = self.tokens();
        (tokens != 0).then(|| u8::try_from(tokens.trailing_zeros()).expect("eight bits"))
    }

    /// All sets of names between this one and `most`.
    fn up_to(self, most: Self) -> Vec<Self> {
        let mut sets = vec![self];
        for bit in (0..TOKENS).map(|token| 1 << token) {
            if most.intents & bit > self.intents & bit {
                sets.extend(sets.clone().into_iter().map(|set| Self { intents: set.intents | bit, ..set }));
            }
            if most.helds & bit > self.helds & bit {
                sets.extend(sets.clone().into_iter().map(|set| Self { helds: set.helds | bit, ..set }));
            }
        }
        sets
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    Idle,
    /// Reads the claims for the first time.
    Glance,
    Publish,
    /// Is about to read them again, and reads them.
    ToDoorway,
    Doorway,
    Hold,
    ToVerify,
    Verify,
    /// Has won, and drops its first name.
    Shed,
    Held,
    /// Is about to remove its second name, and its first, with or without the lock.
    Unhold,
    Withdraw,
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Contender {
    kind: Kind,
    at: At,
    attempts: u8,
    token: u8,
    /// While it reads the claims: what was there all the time, and what was at any time.
    all_the_time: Names,
    at_any_time: Names,
    has_held: bool,
}

impl Contender {
    fn bit(&self) -> u8 {
        1 << self.token
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    names: Names,
    /// The tokens that were drawn.
    drawn: u8,
    contenders: [Contender; CONTENDERS],
    crashes: u8,
}

impl State {
    /// Changes the names, under the eyes of those who read them.
    fn change(&mut self, change: impl Fn(&mut Names)) {
        change(&mut self.names);
        let names = self.names;
        for reader in &mut self.contenders {
            reader.all_the_time.intents &= names.intents;
            reader.all_the_time.helds &= names.helds;
            reader.at_any_time.intents |= names.intents;
            reader.at_any_time.helds |= names.helds;
        }
    }

    /// All attempts are over, and nobody has ever held.
    fn is_in_vain(&self) -> bool {
        let is_over = |me: &Contender| me.at == At::Dead || (me.at == At::Idle && me.attempts == 0);
        self.contenders.iter().all(|me| is_over(me) && !me.has_held)
    }

    fn holders(&self) -> impl Iterator<Item = &Contender> {
        self.contenders.iter().filter(|contender| matches!(contender.at, At::Shed | At::Held))
    }

    fn dead_tokens(&self) -> u8 {
        let dead = self.contenders.iter().filter(|contender| contender.at == At::Dead);
        dead.fold(0, |tokens, contender| tokens | contender.bit())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// This contender makes the call that it stands before.
    Make(usize),
    /// It publishes a claim with this token.
    Draw(usize, u8),
    /// It has read these claims.
    Found(usize, Names),
    Crash(usize),
    /// Somebody removes the claim of a dead one, or of one that only seems to be.
    Break(usize),
}

#[derive(Clone, Debug)]
struct Strict {
    rules: Rules,
    kinds: Vec<Kind>,
    attempts: u8,
    crashes: u8,
}

impl Strict {
    /// As many as are drawn: what counts is their order.
    fn tokens(&self) -> u8 {
        self.attempts * u8::try_from(self.kinds.len()).expect("few contenders")
    }

    /// What the contender makes of the claims that it has read.
    fn decide(&self, me: &Contender, found: Names) -> At {
        let is_smallest = found.smallest() == Some(me.token);
        let others_held = found.helds & !me.bit() != 0;
        let rules = self.rules;
        match me.at {
            At::Glance if found != Names::default() => At::Idle,
            At::Glance => At::Publish,
            At::Doorway => {
                let gives_way =
                    (rules.gives_way_to_held && others_held) || (rules.gives_way_to_smaller && !is_smallest);
                if gives_way { At::Withdraw } else { At::Hold }
            }
            At::Verify if is_smallest && found.intents & found.helds & me.bit() != 0 => won(me.kind),
            At::Verify => At::Unhold,
            At::Idle
            | At::Publish
            | At::ToDoorway
            | At::Hold
            | At::ToVerify
            | At::Shed
            | At::Held
            | At::Unhold
            | At::Withdraw
            | At::Dead => me.at,
        }
    }

    fn make(&self, state: &mut State, seat: usize) {
        let me = state.contenders[seat];
        let next = match me.at {
            At::Idle => At::Glance,
            At::ToDoorway => At::Doorway,
            At::Hold => {
                state.change(|names| names.helds |= me.bit());
                if self.rules.verifies { At::ToVerify } else { won(me.kind) }
            }
            At::ToVerify => At::Verify,
            At::Shed => {
                state.change(|names| names.intents &= !me.bit());
                At::Held
            }
            At::Held => At::Unhold,
            At::Unhold => {
                state.change(|names| names.helds &= !me.bit());
                At::Withdraw
            }
            At::Withdraw => {
                state.change(|names| names.intents &= !me.bit());
                At::Idle
            }
            At::Glance | At::Publish | At::Doorway | At::Verify | At::Dead => me.at,
        };
        self.go(state, seat, next);
    }

    /// Publishes with `token`. Who reads the claims before that has made its mistake.
    fn publish(&self, state: &mut State, seat: usize, token: u8) {
        let me = &mut state.contenders[seat];
        me.token = token;
        let (bit, kept) = (me.bit(), (me.all_the_time, me.at_any_time));
        state.drawn |= bit;
        state.change(|names| names.intents |= bit);
        if self.rules.publishes_first {
            self.go(state, seat, At::ToDoorway);
        } else {
            self.go(state, seat, At::Doorway);
            let me = &mut state.contenders[seat];
            (me.all_the_time, me.at_any_time) = kept;
            me.all_the_time.intents |= bit;
            me.at_any_time.intents |= bit;
        }
    }

    fn go(&self, state: &mut State, seat: usize, next: At) {
        let names = state.names;
        let me = &mut state.contenders[seat];
        if me.at == At::Idle {
            me.attempts -= 1;
        }
        let reads = matches!(next, At::Glance | At::Doorway | At::Verify);
        let keeps = next == At::Publish && !self.rules.publishes_first;
        if !keeps {
            let seen = if reads { names } else { Names::default() };
            (me.all_the_time, me.at_any_time) = (seen, seen);
        }
        if next == At::Idle {
            me.token = TOKENS;
        }
        me.has_held |= matches!(next, At::Shed | At::Held);
        me.at = next;
    }
}

fn won(kind: Kind) -> At {
    match kind {
        Kind::Ours => At::Held,
        Kind::Early => At::Shed,
    }
}

impl Model for Strict {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let contender = |seat: usize| {
            let kind = self.kinds.get(seat).copied();
            Contender {
                kind: kind.unwrap_or(Kind::Ours),
                at: At::Idle,
                attempts: if kind.is_some() { self.attempts } else { 0 },
                token: TOKENS,
                all_the_time: Names::default(),
                at_any_time: Names::default(),
                has_held: false,
            }
        };
        vec![State {
            names: Names::default(),
            drawn: 0,
            contenders: std::array::from_fn(contender),
            crashes: self.crashes,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (seat, me) in state.contenders.iter().enumerate() {
            match me.at {
                At::Idle if me.attempts == 0 => continue,
                At::Dead if state.names.tokens() & me.bit() != 0 => actions.push(Action::Break(seat)),
                At::Dead => {}
                At::Publish => {
                    let free = (0..self.tokens()).filter(|token| state.drawn & 1 << token == 0);
                    actions.extend(free.map(|token| Action::Draw(seat, token)));
                }
                At::Glance | At::Doorway | At::Verify => {
                    let least = if self.rules.lists_all { me.all_the_time } else { Names::default() };
                    let found = least.up_to(me.at_any_time);
                    actions.extend(found.into_iter().map(|found| Action::Found(seat, found)));
                }
                At::Idle
                | At::ToDoorway
                | At::Hold
                | At::ToVerify
                | At::Shed
                | At::Held
                | At::Unhold
                | At::Withdraw => actions.push(Action::Make(seat)),
            }
            let has_claim = me.at != At::Dead && state.names.tokens() & me.bit() != 0;
            if !self.rules.leaves_claims_alone && has_claim {
                actions.push(Action::Break(seat));
            }
            if me.at != At::Idle && me.at != At::Dead && state.crashes > 0 {
                actions.push(Action::Crash(seat));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = *last;
        match action {
            Action::Make(seat) => self.make(&mut state, seat),
            Action::Draw(seat, token) => self.publish(&mut state, seat, token),
            Action::Found(seat, found) => {
                let me = state.contenders[seat];
                let next = self.decide(&me, found);
                self.go(&mut state, seat, next);
            }
            Action::Crash(seat) => {
                state.crashes -= 1;
                self.go(&mut state, seat, At::Dead);
            }
            Action::Break(seat) => {
                let bit = state.contenders[seat].bit();
                // One name at a time, as by hand.
                let is_held = state.names.helds & bit != 0;
                let names =
                    |names: &mut Names| if is_held { names.helds &= !bit } else { names.intents &= !bit };
                state.change(names);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut laws = vec![
            Property::always(ONE_HOLDER, |_, state: &State| state.holders().count() <= 1),
            Property::always(CLAIMED, |_, state: &State| {
                state.holders().all(|holder| state.names.helds & holder.bit() != 0)
            }),
            Property::always(CLEAN, |_, state: &State| {
                let is_quiet = state.contenders.iter().all(|me| matches!(me.at, At::Idle | At::Dead));
                !is_quiet || state.names.tokens() & !state.dead_tokens() == 0
            }),
            Property::sometimes(ALL_HELD, |model: &Self, state: &State| {
                state.contenders.iter().take(model.kinds.len()).all(|contender| contender.has_held)
            }),
            Property::sometimes(NOBODY, |_, state: &State| state.is_in_vain() && state.dead_tokens() == 0),
        ];
        if self.crashes > 0 {
            laws.push(Property::sometimes(KEPT_OUT, |_, state: &State| {
                state.is_in_vain() && state.names != Names::default()
            }));
        }
        laws
    }
}

/// Contenders whose processes do not end.
fn model(rules: Rules, kinds: &[Kind], attempts: u8) -> Strict {
    Strict { rules, kinds: kinds.to_vec(), attempts, crashes: 0 }
}

/// Tries everything. All laws hold, and what should happen happens.
fn check(model: Strict) {
    model.checker().threads(2).spawn_bfs().join().assert_properties();
}

/// Tries until there are two holders.
fn finds_two_holders(model: Strict) {
    let broken = HasDiscoveries::AllOf(BTreeSet::from([ONE_HOLDER]));
    let checker = model.checker().threads(2).finish_when(broken).spawn_bfs().join();
    assert!(checker.discovery(ONE_HOLDER).is_some(), "nobody else comes in");
}

#[test]
fn there_is_one_holder_however_long_anybody_is_stopped() {
    check(model(RIGHT, &[Kind::Ours; 3], 1));
    check(model(RIGHT, &[Kind::Ours; 2], 2));
}

#[test]
fn also_when_somebody_dies_whose_claim_is_removed_by_hand() {
    check(Strict { crashes: 1, ..model(RIGHT, &[Kind::Ours; 2], 1) });
}

#[test]
fn it_is_needed_to_give_way_to_what_is_held() {
    finds_two_holders(model(Rules { gives_way_to_held: false, ..RIGHT }, &[Kind::Ours; 2], 1));
}

#[test]
fn it_is_needed_to_read_the_claims_once_more() {
    finds_two_holders(model(Rules { verifies: false, ..RIGHT }, &[Kind::Ours; 2], 1));
}

#[test]
fn it_is_needed_to_publish_before_the_claims_are_read() {
    finds_two_holders(model(Rules { publishes_first: false, ..RIGHT }, &[Kind::Ours; 2], 1));
}

#[test]
fn it_is_needed_that_a_listing_has_what_was_there_all_the_while() {
    finds_two_holders(model(Rules { lists_all: false, ..RIGHT }, &[Kind::Ours; 2], 1));
}

#[test]
fn it_is_needed_that_nobody_takes_a_claim_for_a_dead_ones() {
    finds_two_holders(model(Rules { leaves_claims_alone: false, ..RIGHT }, &[Kind::Ours; 2], 1));
}

/// filelock did so in 3.30.0 to 3.30.3. Who reads the claims meanwhile may find neither name: the one is not there yet when
/// he begins, and the other not any more when he comes to it.
#[test]
fn it_is_needed_that_a_holder_keeps_its_first_name() {
    finds_two_holders(model(RIGHT, &[Kind::Early, Kind::Ours], 1));
}

/// Whoever has a greater token finds out when the claims are read once more: this only spares others.
#[test]
fn it_is_not_needed_to_give_way_to_a_smaller_token_at_the_doorway() {
    let model = model(Rules { gives_way_to_smaller: false, ..RIGHT }, &[Kind::Ours; 2], 2);
    model.checker().threads(2).spawn_bfs().join().assert_no_discovery(ONE_HOLDER);
}

/// ```text
/// cargo test --release --test rust -- --ignored --exact models::strict::large
/// ```
#[test]
#[ignore = "takes half a minute"]
fn large() {
    check(Strict { crashes: 1, ..model(RIGHT, &[Kind::Ours; 3], 1) });
    check(Strict { crashes: 1, ..model(RIGHT, &[Kind::Ours; 2], 2) });
}
