//! A platform without the calls that markers need.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::{At, FileId, Stamp};

pub(crate) const MOVES_BY_RENAME: bool = false;

fn unsupported() -> io::Error {
    io::Error::from(io::ErrorKind::Unsupported)
}

pub(crate) fn open_folder(_path: &Path) -> io::Result<File> {
    Err(unsupported())
}

pub(crate) fn make_folder(_at: At<'_>, _mode: u32) -> io::Result<()> {
    Err(unsupported())
}

pub(crate) fn open_folder_at(_at: At<'_>) -> io::Result<File> {
    Err(unsupported())
}

pub(crate) fn file_name(_path: &Path) -> io::Result<&OsStr> {
    Err(unsupported())
}

pub(crate) fn look(_at: At<'_>) -> io::Result<Option<Stamp>> {
    Err(unsupported())
}

pub(crate) fn path_of_open(_file: &File) -> io::Result<PathBuf> {
    Err(unsupported())
}

pub(crate) fn stamp_of(_file: &File) -> io::Result<Stamp> {
    Err(unsupported())
}

pub(crate) fn check_with_server(_file: &File) -> io::Result<()> {
    Err(unsupported())
}

pub(crate) fn of_open_file(error: io::Error) -> io::Error {
    error
}

pub(crate) fn forget(_at: At<'_>) {}

pub(crate) fn forget_path(_path: &Path) {}

pub(crate) fn is_stale(_error: &io::Error) -> bool {
    false
}

pub(crate) fn open_to_read(_at: At<'_>) -> io::Result<File> {
    Err(unsupported())
}

pub(crate) fn create_unnamed(_folder: &File, _mode: u32) -> io::Result<File> {
    Err(unsupported())
}

pub(crate) fn create_new(_at: At<'_>, _mode: u32) -> io::Result<File> {
    Err(unsupported())
}

pub(crate) fn set_mode(_file: &File, _mode: u32) -> io::Result<()> {
    Err(unsupported())
}

pub(crate) fn touch(_file: &File) -> io::Result<()> {
    Err(unsupported())
}

pub(crate) fn name_unnamed(_file: &File, _at: At<'_>) -> io::Result<()> {
    Err(unsupported())
}

pub(crate) fn link(_old: At<'_>, _new: &OsStr) -> io::Result<()> {
    Err(unsupported())
}

pub(crate) fn link_across(_old: At<'_>, _new: At<'_>) -> io::Result<()> {
    Err(unsupported())
}

pub(crate) fn exchange(_one: At<'_>, _other: &OsStr) -> io::Result<()> {
    Err(unsupported())
}

pub(crate) fn rename(_old: At<'_>, _new: &OsStr) -> io::Result<()> {
    Err(unsupported())
}

pub(crate) fn remove(_at: At<'_>) -> io::Result<()> {
    Err(unsupported())
}

pub(crate) const REMOVES_OPEN_FILES: bool = true;

pub(crate) fn remove_lock_file(_at: At<'_>, _id: FileId) -> io::Result<bool> {
    Err(unsupported())
}

pub(crate) fn open_to_lock(_at: At<'_>) -> io::Result<File> {
    Err(unsupported())
}

pub(crate) fn names(_at: At<'_>, _prefix: &OsStr) -> io::Result<Vec<OsString>> {
    Err(unsupported())
}

pub(crate) fn may_write(_at: At<'_>) -> bool {
    false
}

pub(crate) fn link_error() -> io::Error {
    unsupported()
}

pub(crate) fn folder_error() -> io::Error {
    unsupported()
}

pub(crate) fn is_too_long(_error: &io::Error) -> bool {
    false
}
