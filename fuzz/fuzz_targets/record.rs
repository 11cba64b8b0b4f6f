//! Whatever a file holds, it is read without a panic, and a marker's owner is read as it was written.

#![no_main]

use ferrolock::record::{Content, LONGEST, Record, Tenancy};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let content = Content::parse(bytes);
    assert!(bytes.len() <= LONGEST || content == Content::Malformed);
    if let Some(pid) = content.pid() {
        assert!((1..=0x7fff_ffff).contains(&pid), "{pid} is no process");
    }
    match &content {
        Content::Owned(record) => read_again(record),
        Content::Tenant(tenancy) => read_terms_again(tenancy),
        _ => {}
    }
});

/// The same of terms: whatever stands in their last line, the end of it is not white space.
fn read_terms_again(tenancy: &Tenancy) {
    assert!(!tenancy.owner.host.is_empty());
    let bytes = tenancy.to_bytes();
    if bytes.len() <= LONGEST {
        assert_eq!(Content::parse(&bytes), Content::Tenant(Box::new(tenancy.clone())));
    }
}

/// What was read, written and read once more says the same. Without a token behind it a host loses the white space at
/// its end, or all of itself.
fn read_again(record: &Record) {
    let again = Content::parse(&record.to_bytes());
    match &again {
        Content::Owned(read) if record.start.is_some() => assert_eq!(read, record),
        // A pid of "01" makes another file than the one that strict locks have there.
        Content::Strict => assert_eq!(record.pid, 1),
        Content::Owned(_) | Content::Bare(_) if record.start.is_none() => {
            assert_eq!(again.pid(), Some(record.pid));
        }
        _ => panic!("{record:?} is read as {again:?}"),
    }
}
