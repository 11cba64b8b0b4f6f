//! What happens to the file itself: what is created, how, and what is left alone.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime};

use ferrolock::mechanism::KernelLock;
use ferrolock::{ErrorKind, Lock, Scope, Timeout};
use rustix::fs::Mode;

use crate::alone::alone;
use crate::support::{
    Checked, LONG, Place, SHORT, acquire, is_free, join, kernel_lock, me, patience, telling,
};

#[test]
fn a_lock_file_is_never_written_to_and_stays() -> Checked {
    let place = Place::new()?;
    fs::write(&place.path, "somebody's data\n")?;
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    File::options().write(true).open(&place.path)?.set_modified(long_ago)?;
    let inode = fs::metadata(&place.path)?.ino();
    let lock = kernel_lock(Scope::PerOwner);
    acquire(&lock, me(), &place.path, Timeout::Once)?;
    acquire(&lock, me(), &place.path, Timeout::Once)?;
    assert!(!is_free(&place.path)?);
    lock.release(me(), true)?;
    acquire(&lock, me(), &place.path, Timeout::Once)?;
    drop(lock);
    assert_eq!(fs::read_to_string(&place.path)?, "somebody's data\n");
    let file = fs::metadata(&place.path)?;
    assert_eq!((file.modified()?, file.ino()), (long_ago, inode));
    Ok(())
}

#[test]
fn a_new_lock_file_is_empty_and_stays() -> Checked {
    let place = Place::new()?;
    let lock = kernel_lock(Scope::PerOwner);
    acquire(&lock, me(), &place.path, Timeout::Once)?;
    let inode = fs::metadata(&place.path)?.ino();
    lock.release(me(), false)?;
    let file = fs::metadata(&place.path)?;
    assert_eq!((file.len(), file.ino()), (0, inode));
    Ok(())
}

fn mode_after_lock(path: &Path, mode: Option<u32>) -> Checked<u32> {
    let lock = Lock::new(Box::new(KernelLock::new(mode)), Scope::PerOwner);
    acquire(&lock, me(), path, Timeout::Once)?;
    Ok(fs::metadata(path)?.permissions().mode() & 0o7777)
}

#[test]
fn a_mode_is_exact_and_without_one_the_umask_decides() -> Checked {
    alone(|| {
        rustix::process::umask(Mode::from_raw_mode(0o027));
        assert_eq!(mode_after_lock(&Place::new()?.path, None)?, 0o640);
        for mode in [0o600, 0o644, 0o666, 0o660] {
            let place = Place::new()?;
            assert_eq!(mode_after_lock(&place.path, Some(mode))?, mode);
            assert_eq!(mode_after_lock(&place.path, Some(0o604))?, mode, "an existing file keeps its own");
        }
        Ok(())
    })
}

#[test]
fn missing_parent_folders_are_created() -> Checked {
    let place = Place::new()?;
    let deep = place.folder().join("a/b/c/x.lock");
    let lock = kernel_lock(Scope::PerOwner);
    acquire(&lock, me(), &deep, Timeout::Once)?;
    assert!(deep.is_file());
    assert!(!is_free(&deep)?);
    lock.release(me(), false)?;
    Ok(())
}

/// Nothing is held then, and nothing new is in the folder.
fn is_refused_with(path: &Path, errno: i32) -> Checked<ErrorKind> {
    let folder = path.parent().and_then(Path::parent).ok_or("two folders above")?;
    let entries = || -> Checked<usize> { Ok(fs::read_dir(folder)?.count()) };
    let before = entries()?;
    let lock = kernel_lock(Scope::PerOwner);
    match acquire(&lock, me(), path, Timeout::Never) {
        Ok(()) => Err(format!("{} was locked", path.display()).into()),
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(errno), "{error}");
            assert_eq!(error.path(), path);
            assert_eq!(lock.depth(me()), 0);
            assert_eq!(entries()?, before);
            Ok(error.kind())
        }
    }
}

#[test]
fn what_can_be_no_lock_file_is_refused_and_left_alone() -> Checked {
    let place = Place::new()?;
    // Two folders above it, too, nobody else makes files.
    let folder = place.folder().canonicalize()?.join("over/there");
    fs::create_dir_all(&folder)?;
    let path = |name: &str| folder.join(name);
    fs::write(path("file"), "data")?;
    symlink("file", path("link"))?;
    symlink("nowhere", path("dangling"))?;
    is_refused_with(&path("link"), libc::ELOOP)?;
    is_refused_with(&path("dangling"), libc::ELOOP)?;
    is_refused_with(&path("file/x.lock"), libc::ENOTDIR)?;
    is_refused_with(&path(&"x".repeat(300)), libc::ENAMETOOLONG)?;
    #[cfg(target_os = "linux")]
    {
        rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), Mode::from_raw_mode(0o600))?;
        assert_eq!(is_refused_with(&path("fifo"), libc::EINVAL)?, ErrorKind::Refused);
    }
    assert_eq!(is_refused_with(&folder, libc::EISDIR)?, ErrorKind::Refused);
    assert_eq!(fs::read_to_string(path("file"))?, "data");
    assert!(!folder.join("nowhere").exists());
    Ok(())
}

#[test]
fn a_relative_path_means_what_it_meant_when_the_wait_began() -> Checked {
    alone(|| {
        let (place, elsewhere) = (Place::new()?, Place::new()?);
        std::env::set_current_dir(place.folder())?;
        let (holder, lock) = (kernel_lock(Scope::PerOwner), kernel_lock(Scope::PerOwner));
        acquire(&holder, me(), &place.path, Timeout::Once)?;
        let (waiting, waits) = mpsc::channel();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| -> Checked<bool> {
                let mut watch = telling(waiting);
                lock.acquire(me(), Path::new("x.lock"), patience(Timeout::After(LONG)), &mut watch)?;
                Ok(!is_free(&place.path)?)
            });
            waits.recv_timeout(LONG)?;
            std::env::set_current_dir(elsewhere.folder())?;
            ferrolock::wait::sleep(SHORT);
            assert!(!elsewhere.path.exists());
            holder.release(me(), false)?;
            assert!(join(waiter)?, "the file in the former folder");
            assert!(!elsewhere.path.exists());
            Ok(())
        })
    })
}
