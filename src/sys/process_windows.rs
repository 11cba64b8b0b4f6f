//! Windows: processes by handle.

use std::io;
use std::mem::MaybeUninit;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::time::Duration;

use windows_sys::Win32::Foundation::{ERROR_INVALID_PARAMETER, FILETIME, WAIT_OBJECT_0, WAIT_TIMEOUT};
use windows_sys::Win32::System::SystemInformation::{
    ComputerNamePhysicalDnsHostname, GetComputerNameExW, GetTickCount64,
};
use windows_sys::Win32::System::Threading::{
    GetProcessTimes, OpenProcess, PROCESS_ACCESS_RIGHTS, PROCESS_QUERY_LIMITED_INFORMATION,
    PROCESS_SYNCHRONIZE, WaitForSingleObject,
};

/// The longest host name, with its end.
const LONGEST: usize = 256;

#[expect(unsafe_code, reason = "GetComputerNameExW is a C function")]
pub(crate) fn host_name() -> Vec<u8> {
    let mut name = [0_u16; LONGEST];
    let mut length = 256_u32;
    // SAFETY: the buffer is ours, and as long as is said.
    let done =
        unsafe { GetComputerNameExW(ComputerNamePhysicalDnsHostname, name.as_mut_ptr(), &raw mut length) };
    if done == 0 {
        return Vec::new();
    }
    let length = usize::try_from(length).unwrap_or(0).min(LONGEST);
    String::from_utf16_lossy(&name[..length]).into_bytes()
}

pub(crate) fn pid_namespace() -> Option<u64> {
    None
}

pub(crate) fn boot_id() -> u128 {
    0
}

/// The time since the machine began, suspended or not.
#[expect(unsafe_code, reason = "GetTickCount64 is a C function")]
pub(crate) fn since_boot() -> Duration {
    // SAFETY: it takes nothing and cannot fail.
    Duration::from_millis(unsafe { GetTickCount64() })
}

#[expect(unsafe_code, reason = "OpenProcess is a C function")]
fn open(pid: u32, rights: PROCESS_ACCESS_RIGHTS) -> io::Result<OwnedHandle> {
    // SAFETY: the arguments are numbers.
    let handle = unsafe { OpenProcess(rights, 0, pid) };
    if handle.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has opened the handle for us.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

/// When the process began, in units of 100 ns; `None`: not to be known.
#[expect(unsafe_code, reason = "GetProcessTimes is a C function")]
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let process = open(pid, PROCESS_QUERY_LIMITED_INFORMATION).ok()?;
    let mut times = [const { MaybeUninit::<FILETIME>::uninit() }; 4];
    let [began, ended, kernel, user] = &mut times;
    // SAFETY: the handle is open, and the four times are ours.
    let done = unsafe {
        GetProcessTimes(
            process.as_raw_handle(),
            began.as_mut_ptr(),
            ended.as_mut_ptr(),
            kernel.as_mut_ptr(),
            user.as_mut_ptr(),
        )
    };
    if done == 0 {
        return None;
    }
    // SAFETY: the call succeeded, so it has filled the times.
    let began = unsafe { began.assume_init() };
    Some(u64::from(began.dwHighDateTime) << 32 | u64::from(began.dwLowDateTime))
}

/// Whether a process of that number runs; `None`: not to be known.
#[expect(unsafe_code, reason = "WaitForSingleObject is a C function")]
pub(crate) fn is_running(pid: u32) -> Option<bool> {
    match open(pid, PROCESS_SYNCHRONIZE) {
        Ok(process) => {
            // SAFETY: the handle is open.
            match unsafe { WaitForSingleObject(process.as_raw_handle(), 0) } {
                WAIT_OBJECT_0 => Some(false),
                WAIT_TIMEOUT => Some(true),
                _ => None,
            }
        }
        Err(error) => {
            let unknown = i32::try_from(ERROR_INVALID_PARAMETER).ok();
            if error.raw_os_error() == unknown { Some(false) } else { Some(true) }
        }
    }
}

pub(crate) fn may_run_below(_pid: u32, _start: Option<u64>) -> bool {
    false
}
