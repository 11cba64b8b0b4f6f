//! What a state of the model is: a folder, the inodes its names lead to, and where each contender stands.
//!
//! An inode number is a place in a table. A number whose inode has neither a name nor an open descriptor goes to the
//! next file that is made, as on ext4. There are no times: two files made within one tick of the kernel's clock have
//! the same ones, and so has a file before and after a write. Only a time that is set on purpose differs (`stamps`).

/// The most contenders there can be.
pub(super) const CONTENDERS: usize = 4;
/// The seat, and the process, of the contender that comes when all is quiet. It takes part in no other state.
pub(super) const FRESH: usize = CONTENDERS;
const SEATS: usize = CONTENDERS + 1;
/// The process of an owner that died before the beginning.
pub(super) const LONG_DEAD: Pid = 9;

pub(super) const INODES: usize = 12;
pub(super) const NAMES: usize = 9;
pub(super) const CANDIDATES: usize = 4;

pub(super) type Pid = u8;
/// An inode number.
pub(super) type Ino = u8;

/// What is read from a marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// No inode has this number.
    Free,
    /// Created, to be written next.
    Empty,
    Record(Pid),
    Released,
    Malformed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sort {
    Break,
    Restore,
}

/// A name beside the path: `P.break.<pid>.<tag>` or `P.restore.<pid>.<tag>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) sort: Sort,
    pub(super) pid: Pid,
    pub(super) tag: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Folder {
    pub(super) path: Option<Ino>,
    /// Sorted; the free places are at the end.
    names: [Option<(Name, Ino)>; NAMES],
    pub(super) inodes: [Content; INODES],
    pub(super) stamps: [u8; INODES],
}

impl Folder {
    pub(super) fn new() -> Self {
        Self { path: None, names: [None; NAMES], inodes: [Content::Free; INODES], stamps: [0; INODES] }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (Name, Ino)> + '_ {
        self.names.iter().map_while(|entry| *entry)
    }

    pub(super) fn lookup(&self, name: Name) -> Option<Ino> {
        self.entries().find(|(found, _)| *found == name).map(|(_, ino)| ino)
    }

    /// How many names an inode has.
    pub(super) fn links(&self, ino: Ino) -> usize {
        usize::from(self.path == Some(ino)) + self.entries().filter(|(_, at)| *at == ino).count()
    }

    pub(super) fn content(&self, ino: Ino) -> Content {
        self.inodes[usize::from(ino)]
    }

    pub(super) fn stamp(&self, ino: Ino) -> u8 {
        self.stamps[usize::from(ino)]
    }

    /// A new inode. It must be open or have a name when the step ends.
    pub(super) fn create(&mut self, content: Content) -> Ino {
        let ino = self.inodes.iter().position(|content| *content == Content::Free).expect("a larger table");
        self.inodes[ino] = content;
        Ino::try_from(ino).expect("a small table")
    }

    pub(super) fn write(&mut self, ino: Ino, content: Content) {
        self.inodes[usize::from(ino)] = content;
    }

    /// Sets the inode's time to one that it has not had.
    pub(super) fn touch(&mut self, ino: Ino) {
        self.stamps[usize::from(ino)] += 1;
    }

    pub(super) fn link(&mut self, name: Name, ino: Ino) {
        let place = self.names.iter().position(|entry| entry.is_none_or(|(found, _)| found > name));
        let place = place.filter(|_| self.names[NAMES - 1].is_none()).expect("room for a name");
        self.names[place..].rotate_right(1);
        self.names[place] = Some((name, ino));
    }

    pub(super) fn unlink(&mut self, name: Name) -> Option<Ino> {
        let place = self.names.iter().position(|entry| entry.is_some_and(|(found, _)| found == name))?;
        let (_, ino) = self.names[place].take()?;
        self.names[place..].rotate_left(1);
        Some(ino)
    }

    /// Exchanges what the name and the path lead to; fails if one of them is missing.
    pub(super) fn exchange(&mut self, name: Name) -> bool {
        let entry = self.names.iter_mut().flatten().find(|(found, _)| *found == name);
        let (Some(path), Some((_, ino))) = (self.path, entry) else { return false };
        self.path = Some(*ino);
        *ino = path;
        true
    }
}

/// Whose rules a contender follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Ours,
    /// filelock 4.2.12.
    Filelock,
}

/// Where a contender stands: the system call that it makes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum At {
    /// Attempting nothing. The next call is `Look`, or filelock's `Create`.
    Idle,
    Prepare,
    Link,
    /// filelock's record, after its `Create`.
    Write,
    Open,
    Read,
    Judge,
    Lock,
    Recheck1,
    // S.
    RecoverScan,
    /// The second half of a listing that is not whole.
    RecoverScanBreaks,
    RecoverClaim,
    RecoverRead,
    RecoverDrop,
    RecoverCheck,
    RecoverExchange,
    RecoverVerify,
    RecoverUnlink,
    RecoverUndo,
    RecoverReturn,
    // Taking over by an exchange.
    Aside,
    AsideWrite,
    Recheck2,
    Exchange,
    Verify,
    TakeUnlink,
    AsideUnlink,
    // Taking over in place.
    Spoil,
    Rewrite,
    Touch,
    Settle,
    Retreat,
    /// Are there others who may exchange what they judged before?
    Survey,
    // B.
    PutBackLookAside,
    PutBackLook,
    PutBackCount,
    PutBackWait,
    PutBackExchange,
    PutBackLink,
    PutBackUnlink,
    /// filelock's, after it has put back.
    CleanUpLook,
    CleanUpUnlink,
    /// Holding. The next call is `ReleaseCompare`, or `Resurvey` for who was contested.
    Held,
    ReleaseCompare,
    Unlink,
    WriteReleased,
    /// The process has ended.
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Actor {
    pub(super) kind: Kind,
    pub(super) pid: Pid,
    pub(super) at: At,
    /// How many holds it may still get.
    pub(super) holds: u8,
    /// Its own marker, open.
    pub(super) own: Option<Ino>,
    /// The marker that it judges, open, and the time that it saw.
    pub(super) judged: Option<Ino>,
    pub(super) seen: u8,
    /// The process that the judged marker names.
    pub(super) breaker: Option<Pid>,
    /// Whether it has locked the judged marker's inode.
    pub(super) locks: bool,
    pub(super) aside: Option<Name>,
    /// What a scan found and is not done with. While one is recovered, the first is its present name.
    pub(super) candidates: [Option<Name>; CANDIDATES],
    /// Whether it found others under way when it took the lock over.
    pub(super) contested: bool,
}

impl Actor {
    pub(super) fn new(kind: Kind, pid: Pid, holds: u8) -> Self {
        Self {
            kind,
            pid,
            at: At::Idle,
            holds,
            own: None,
            judged: None,
            seen: 0,
            breaker: None,
            locks: false,
            aside: None,
            candidates: [None; CANDIDATES],
            contested: false,
        }
    }

    /// The end of an attempt, a hold or a process: all descriptors are closed.
    pub(super) fn rest(&mut self, at: At) {
        *self = Self { at, ..Self::new(self.kind, self.pid, self.holds) };
    }

    fn remembers(&self, name: Name) -> bool {
        self.aside == Some(name) || self.candidates.contains(&Some(name))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) folder: Folder,
    pub(super) actors: [Actor; SEATS],
    /// How many processes may still be killed.
    pub(super) crashes: u8,
    /// How often one may still give up putting back.
    pub(super) give_ups: u8,
    pub(super) gave_up: bool,
    /// Whether a judged marker is kept open while it is judged.
    pub(super) pins: bool,
}

impl State {
    pub(super) fn is_alive(&self, pid: Pid) -> bool {
        self.actors.iter().any(|actor| actor.pid == pid && actor.at != At::Dead)
    }

    pub(super) fn contenders(&self) -> &[Actor] {
        &self.actors[..CONTENDERS]
    }

    pub(super) fn content_at_path(&self) -> Option<Content> {
        self.folder.path.map(|ino| self.folder.content(ino))
    }

    /// A name that nobody uses or remembers.
    pub(super) fn new_name(&self, sort: Sort, pid: Pid) -> Name {
        let is_known = |name: Name| {
            self.folder.lookup(name).is_some() || self.actors.iter().any(|actor| actor.remembers(name))
        };
        (0..u8::MAX).map(|tag| Name { sort, pid, tag }).find(|name| !is_known(*name)).expect("few names")
    }

    /// The numbers of inodes without a name and a descriptor become free.
    pub(super) fn collect(&mut self) {
        let mut used = [false; INODES];
        let open = self.actors.iter().flat_map(|actor| [actor.own, actor.judged.filter(|_| self.pins)]);
        let named = self.folder.entries().map(|(_, ino)| Some(ino));
        for ino in open.chain(named).chain([self.folder.path]).flatten() {
            used[usize::from(ino)] = true;
        }
        for ino in (0..INODES).filter(|ino| !used[*ino]) {
            (self.folder.inodes[ino], self.folder.stamps[ino]) = (Content::Free, 0);
        }
    }
}
