//! Which states are one: those that differ only in the numbers of inodes, in the times of files that nobody compares,
//! or in which of two equal contenders is which.

use std::hash::{Hash, Hasher};

use super::state::{Actor, CONTENDERS, Content, INODES, Ino, Name, Pid, State};

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write(&Canon::of(self).bytes);
    }
}

const NONE: u8 = 254;
const UNSEEN: u8 = 255;

struct Canon<'a> {
    state: &'a State,
    bytes: Vec<u8>,
    /// The new numbers: in the order in which they are met.
    inodes: [u8; INODES],
    met: u8,
    pids: [Pid; 16],
}

impl<'a> Canon<'a> {
    fn of(state: &'a State) -> Self {
        let order = order(state);
        let mut pids = std::array::from_fn(byte);
        if is_symmetric(state) {
            order.iter().enumerate().for_each(|(rank, seat)| pids[*seat] = byte(rank));
        }
        // A number that is remembered without being kept is that number and no other.
        let inodes = if state.pins { [UNSEEN; INODES] } else { std::array::from_fn(byte) };
        let mut canon = Self { state, bytes: Vec::with_capacity(192), inodes, met: 0, pids };
        canon.ino(state.folder.path);
        for seat in order {
            canon.actor(&state.actors[seat]);
        }
        canon.names();
        canon.contents();
        canon.bytes.extend([state.crashes, state.give_ups, u8::from(state.gave_up)]);
        canon
    }

    fn actor(&mut self, actor: &Actor) {
        let is_current = actor.judged.is_some_and(|ino| self.state.folder.stamp(ino) == actor.seen);
        let flags = [is_current, actor.locks, actor.contested];
        self.bytes.extend([actor.kind as u8, actor.at as u8, actor.holds]);
        self.bytes.extend(flags.map(u8::from));
        self.ino(actor.own);
        self.ino(actor.judged);
        self.pid(actor.breaker);
        for name in [actor.aside].into_iter().chain(actor.candidates) {
            let name = name.map_or([NONE; 3], |name| self.named(name));
            self.bytes.extend(name);
        }
    }

    fn names(&mut self) {
        let mut entries: Vec<_> =
            self.state.folder.entries().map(|(name, ino)| (self.named(name), ino)).collect();
        entries.sort_unstable();
        for (name, ino) in entries {
            self.bytes.extend(name);
            self.ino(Some(ino));
        }
        self.bytes.push(NONE);
    }

    fn contents(&mut self) {
        let mut contents = [(UNSEEN, Content::Free); INODES];
        for (place, content) in contents.iter_mut().enumerate() {
            *content = (self.inodes[place], self.state.folder.inodes[place]);
        }
        contents.sort_unstable_by_key(|(number, _)| *number);
        for (_, content) in contents {
            let (code, pid) = match content {
                Content::Free => (0, None),
                Content::Empty => (1, None),
                Content::Released => (2, None),
                Content::Malformed => (3, None),
                Content::Record(pid) => (4, Some(pid)),
            };
            self.bytes.push(code);
            self.pid(pid);
        }
    }

    fn ino(&mut self, ino: Option<Ino>) {
        let number = ino.map_or(NONE, |ino| {
            let number = &mut self.inodes[usize::from(ino)];
            if *number == UNSEEN {
                *number = self.met;
                self.met += 1;
            }
            *number
        });
        self.bytes.push(number);
    }

    fn pid(&mut self, pid: Option<Pid>) {
        self.bytes.push(pid.map_or(NONE, |pid| self.pids[usize::from(pid)]));
    }

    fn named(&self, name: Name) -> [u8; 3] {
        [name.sort as u8, self.pids[usize::from(name.pid)], name.tag]
    }
}

fn byte(number: usize) -> u8 {
    u8::try_from(number).expect("small numbers")
}

/// Whether each contender is a process of its own: only then can they change places.
fn is_symmetric(state: &State) -> bool {
    state.contenders().iter().enumerate().all(|(seat, actor)| usize::from(actor.pid) == seat)
}

/// The seats by what their contenders are about. Equal ones stay as they are: that makes more states, never fewer.
fn order(state: &State) -> [usize; CONTENDERS] {
    let mut order = std::array::from_fn(|seat| seat);
    if is_symmetric(state) {
        order.sort_by_key(|seat| {
            let actor = &state.actors[*seat];
            let is_at_path = state.content_at_path() == Some(Content::Record(actor.pid));
            let names = state.folder.entries().filter(|(name, _)| name.pid == actor.pid).count();
            (actor.kind, actor.at, actor.holds, actor.breaker.is_some(), is_at_path, names)
        });
    }
    order
}
