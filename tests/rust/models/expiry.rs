//! Markers that are leases: every interleaving of the system calls of an owner and of contenders that take it for dead.
//!
//! The steps of reclaiming are those of `marker`; what is new is that the owner lives. It may be stopped for any time
//! between two calls, refreshes its marker, and gives it back. A lease that was seen unchanged may be over at any time, so
//! the time that passes is not modelled at all (`src/mechanism/health/model.rs` has that). Nobody dies here: `marker` has that.
//!
//! Two laws. *Own*: whoever removes the name has it. *Last*: when nobody is in the middle of anything, the marker of the
//! last who got the lock is at the path, unless he has given it back or knows that he lost it.
//!
//! On one machine both hold. On several nobody sees the locks, and time has to do: with one contender both hold if nobody is
//! stopped for a whole lease in the middle of taking or removing; three who meet can lose a marker, as with `marker` without
//! its lock.
//!
//! Bounds: an owner that refreshes once, two contenders, one hold each, four markers.

use std::collections::{HashSet, VecDeque};

const ACTORS: usize = 3;

type Ino = u8;

#[expect(clippy::struct_excessive_bools, reason = "each is a step that may be left out")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Rules {
    /// Locks are seen by the others.
    is_one_machine: bool,
    /// Who reclaims, and who removes, has the file locked.
    locks: bool,
    /// A new marker is locked until it is known to be the owner's.
    locks_draft: bool,
    /// The marker is touched before the look at the name.
    touches: bool,
    /// What is aside is compared with what was judged, its time too.
    verifies: bool,
    contenders: usize,
}

const ONE_MACHINE: Rules = Rules {
    is_one_machine: true,
    locks: true,
    locks_draft: true,
    touches: true,
    verifies: true,
    contenders: 2,
};
const SEVERAL: Rules = Rules { is_one_machine: false, contenders: 1, ..ONE_MACHINE };

/// The call that comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum At {
    Look,
    Lock,
    Recheck,
    Aside,
    RecheckAside,
    Exchange,
    Verify,
    Discard,
    TakeUnlink,
    BackLookAside,
    BackLook,
    BackExchange,
    BackLink,
    BackDiscard,
    /// Holds the lock, as far as it knows.
    Held,
    BeatLook,
    Disown,
    ReleaseLock,
    ReleaseTouch,
    ReleaseLook,
    Remove,
    Count,
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Actor {
    at: At,
    own: Option<Ino>,
    judged: Option<(Ino, u8)>,
    aside: Option<Ino>,
    beats: u8,
    knows_loss: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Inode {
    stamp: u8,
    is_released: bool,
    owner: usize,
    locked_by: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    path: Option<Ino>,
    inodes: Vec<Inode>,
    actors: [Actor; ACTORS],
    /// Who was the last to get the lock.
    last: usize,
}

/// The law that a step breaks.
const OWN: &str = "who removes the name has it";
const LAST: &str = "the last marker is at the path";

impl State {
    fn start(contenders: usize) -> Self {
        let actor = Actor { at: At::Look, own: None, judged: None, aside: None, beats: 0, knows_loss: false };
        let mut actors = [actor; ACTORS];
        actors[0] = Actor { at: At::Held, own: Some(0), beats: 1, ..actor };
        actors[contenders + 1..].fill(Actor { at: At::Done, ..actor });
        let inode = Inode { stamp: 0, is_released: false, owner: 0, locked_by: None };
        Self { path: Some(0), inodes: vec![inode], actors, last: 0 }
    }

    fn inode(&mut self, ino: Ino) -> &mut Inode {
        &mut self.inodes[usize::from(ino)]
    }

    fn links(&self, ino: Ino) -> usize {
        let asides = self.actors.iter().filter(|actor| actor.aside == Some(ino)).count();
        usize::from(self.path == Some(ino)) + asides
    }

    fn create(&mut self, owner: usize, rules: Rules) -> Ino {
        let locked_by = (rules.locks && rules.locks_draft).then_some(owner);
        self.inodes.push(Inode { stamp: 0, is_released: false, owner, locked_by });
        Ino::try_from(self.inodes.len() - 1).unwrap_or(Ino::MAX)
    }

    fn unlock_all(&mut self, me: usize) {
        for inode in &mut self.inodes {
            inode.locked_by = inode.locked_by.filter(|owner| *owner != me);
        }
    }

    fn try_lock(&mut self, ino: Ino, me: usize, rules: Rules) -> bool {
        if !rules.locks {
            return true;
        }
        let is_seen = rules.is_one_machine;
        let inode = self.inode(ino);
        if is_seen && inode.locked_by.is_some_and(|owner| owner != me) {
            return false;
        }
        inode.locked_by = Some(me);
        true
    }

    fn is_still(&self, judged: Option<(Ino, u8)>) -> bool {
        judged.is_some_and(|(ino, stamp)| {
            self.path == Some(ino) && self.inodes[usize::from(ino)].stamp == stamp
        })
    }

    fn write_released(&mut self, ino: Ino) {
        let inode = self.inode(ino);
        (inode.is_released, inode.stamp) = (true, inode.stamp + 1);
    }

    /// On several machines time is all that there is: whoever is in the middle of a step is not stopped for a lease.
    fn may_expire(&self, ino: Ino, rules: Rules) -> bool {
        let owner = &self.actors[self.inodes[usize::from(ino)].owner];
        rules.is_one_machine || matches!(owner.at, At::Held | At::BeatLook | At::Done | At::ReleaseTouch)
    }

    #[expect(clippy::too_many_lines, reason = "an arm for each call")]
    /// All that may come of the next call of `me`, and the law that it breaks.
    fn steps(&self, me: usize, rules: Rules) -> Vec<(Self, Option<&'static str>)> {
        let mut next = Vec::new();
        let actor = self.actors[me];
        let mut go = |change: &dyn Fn(&mut Self, &mut Actor) -> At| {
            let mut state = self.clone();
            let mut changed = actor;
            changed.at = change(&mut state, &mut changed);
            state.actors[me] = changed;
            next.push((state, None));
        };
        let give_up = |state: &mut Self, actor: &mut Actor| {
            state.unlock_all(me);
            (actor.judged, actor.own) = (None, None);
            At::Look
        };
        let got = |state: &mut Self, _: &mut Actor| {
            state.unlock_all(me);
            state.last = me;
            At::Held
        };
        match actor.at {
            At::Look => match self.path {
                None => go(&|state, actor| {
                    let own = state.create(me, rules);
                    (state.path, actor.own) = (Some(own), Some(own));
                    got(state, actor)
                }),
                Some(ino) => {
                    let inode = self.inodes[usize::from(ino)];
                    if inode.is_released || self.may_expire(ino, rules) {
                        go(&|_, actor| {
                            actor.judged = Some((ino, inode.stamp));
                            At::Lock
                        });
                    }
                }
            },
            At::Lock => go(&|state, actor| {
                let (ino, _) = actor.judged.unwrap_or_default();
                if state.try_lock(ino, me, rules) { At::Recheck } else { give_up(state, actor) }
            }),
            At::Recheck => go(&|state, actor| {
                if state.is_still(actor.judged) { At::Aside } else { give_up(state, actor) }
            }),
            At::Aside => go(&|state, actor| {
                let own = state.create(me, rules);
                (actor.own, actor.aside) = (Some(own), Some(own));
                At::RecheckAside
            }),
            At::RecheckAside => go(&|state, actor| {
                if state.is_still(actor.judged) { At::Exchange } else { At::Discard }
            }),
            At::Exchange => go(&|state, actor| {
                if state.path.is_some() {
                    std::mem::swap(&mut state.path, &mut actor.aside);
                }
                At::Verify
            }),
            At::Verify => go(&|state, actor| match (actor.aside, actor.judged) {
                (Some(aside), _) if Some(aside) == actor.own => At::Discard,
                (Some(aside), Some((ino, stamp)))
                    if aside == ino && (!rules.verifies || state.inode(aside).stamp == stamp) =>
                {
                    // Had from here on.
                    state.last = me;
                    At::TakeUnlink
                }
                _ => At::BackLookAside,
            }),
            At::TakeUnlink => go(&|state, actor| {
                actor.aside = None;
                state.unlock_all(me);
                At::Held
            }),
            At::Discard => go(&|state, actor| {
                actor.aside = None;
                give_up(state, actor)
            }),
            At::BackLookAside => go(&|_, actor| match actor.aside {
                Some(aside) if Some(aside) == actor.own => At::Discard,
                _ => At::BackLook,
            }),
            At::BackLook => {
                let own_links = actor.own.map_or(0, |own| self.links(own));
                match self.path {
                    Some(ino) if Some(ino) == actor.own => go(&|_, _| At::BackExchange),
                    Some(_) if own_links == 0 => go(&|_, _| At::BackDiscard),
                    Some(_) => {
                        go(&|_, _| At::BackLookAside);
                        go(&|_, _| At::BackExchange);
                    }
                    None => go(&|_, _| At::BackLink),
                }
            }
            At::BackExchange => go(&|state, actor| {
                if state.path.is_some() {
                    std::mem::swap(&mut state.path, &mut actor.aside);
                }
                At::BackLookAside
            }),
            At::BackLink => go(&|state, actor| {
                if state.path.is_none() {
                    state.path = actor.aside;
                    At::BackDiscard
                } else {
                    At::BackLookAside
                }
            }),
            At::BackDiscard => go(&|state, actor| {
                actor.aside = None;
                give_up(state, actor)
            }),
            At::Held => {
                go(&|_, _| At::ReleaseLock);
                if actor.beats > 0 {
                    go(&|state, actor| {
                        actor.beats -= 1;
                        state.inode(actor.own.unwrap_or_default()).stamp += 1;
                        At::BeatLook
                    });
                }
            }
            At::BeatLook => {
                if self.path == actor.own {
                    go(&|_, _| At::Held);
                } else {
                    // It is believed after the third look, or later than the lease.
                    go(&|_, _| At::Held);
                    go(&|_, actor| {
                        actor.knows_loss = true;
                        At::Disown
                    });
                }
            }
            At::Disown => go(&|state, actor| {
                let own = actor.own.unwrap_or_default();
                if state.links(own) > 0 {
                    state.write_released(own);
                }
                At::Done
            }),
            At::ReleaseLock => {
                let own = actor.own.unwrap_or_default();
                go(&|state, _| {
                    if state.try_lock(own, me, rules) { At::ReleaseTouch } else { At::ReleaseLock }
                });
                // Another has it locked for too long.
                let is_locked = self.inodes[usize::from(own)].locked_by.is_some_and(|owner| owner != me);
                if rules.locks && rules.is_one_machine && is_locked {
                    go(&|state, _| {
                        state.write_released(own);
                        At::Done
                    });
                }
            }
            At::ReleaseTouch => go(&|state, actor| {
                if rules.touches {
                    state.inode(actor.own.unwrap_or_default()).stamp += 1;
                }
                At::ReleaseLook
            }),
            At::ReleaseLook => {
                go(&|state, actor| if state.path == actor.own { At::Remove } else { At::Count });
            }
            At::Remove => {
                // That of a contender which does not believe in it is no loss.
                let is_anothers = self.path != actor.own
                    && self.path.is_some_and(|ino| {
                        let owner = self.inodes[usize::from(ino)].owner;
                        self.last == owner && matches!(self.actors[owner].at, At::Held | At::TakeUnlink)
                    });
                go(&|state, _| {
                    state.path = None;
                    At::Count
                });
                if is_anothers {
                    for (_, broken) in &mut next {
                        *broken = Some(OWN);
                    }
                }
            }
            At::Count => go(&|state, actor| {
                let own = actor.own.unwrap_or_default();
                if state.links(own) > 0 {
                    state.write_released(own);
                }
                state.unlock_all(me);
                At::Done
            }),
            At::Done => {}
        }
        next
    }

    fn is_quiet(&self) -> bool {
        self.actors.iter().all(|actor| matches!(actor.at, At::Look | At::Held | At::Done))
    }

    fn breaks(&self) -> Option<&'static str> {
        let last = &self.actors[self.last];
        let is_there = last.at != At::Held || last.knows_loss || self.path == last.own;
        (self.is_quiet() && !is_there).then_some(LAST)
    }
}

/// The first law that an interleaving breaks, of these, and how many states were tried.
fn explore(rules: Rules, laws: &[&'static str]) -> (Option<&'static str>, usize) {
    let start = State::start(rules.contenders);
    let mut known = HashSet::from([start.clone()]);
    let mut open = VecDeque::from([start]);
    while let Some(state) = open.pop_front() {
        for me in 0..ACTORS {
            for (next, law) in state.steps(me, rules) {
                let broken = law.into_iter().chain(next.breaks()).find(|law| laws.contains(law));
                if broken.is_some() {
                    return (broken, known.len());
                }
                if next.inodes.len() <= MOST_INODES && !known.contains(&next) {
                    known.insert(next.clone());
                    open.push_back(next);
                }
            }
        }
    }
    (None, known.len())
}

/// Attempts that fail may be made again and again; so many markers are enough to meet everybody.
const MOST_INODES: usize = 4;

#[test]
fn on_one_machine_nobody_removes_anothers_marker_and_the_last_one_stays() {
    let (broken, states) = explore(ONE_MACHINE, &[OWN, LAST]);
    assert_eq!(broken, None);
    assert!(states > 10_000, "{states}");
}

#[test]
fn on_several_it_takes_three_or_a_long_stop() {
    let (broken, states) = explore(SEVERAL, &[OWN, LAST]);
    assert_eq!(broken, None);
    assert!(states > 100, "{states}");
    assert!(explore(Rules { contenders: 2, ..SEVERAL }, &[OWN, LAST]).0.is_some());
}

#[test]
fn each_of_the_steps_is_needed() {
    let breaks = |law, rules| explore(rules, &[law]).0.is_some();
    assert!(breaks(OWN, Rules { locks: false, ..ONE_MACHINE }));
    assert!(breaks(LAST, Rules { locks_draft: false, ..ONE_MACHINE }));
    assert!(breaks(OWN, Rules { touches: false, ..SEVERAL }));
    assert!(
        breaks(LAST, Rules { verifies: false, ..SEVERAL })
            || breaks(OWN, Rules { verifies: false, ..SEVERAL })
    );
}
