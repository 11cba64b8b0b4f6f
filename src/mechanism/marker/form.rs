//! What a marker of one's own is to be.

use std::sync::Arc;

use super::lease::LeaseTerms;
use crate::mechanism::new_file::random_hex;
use crate::process;
use crate::record::{OwnerMode, Tenancy};

/// What markers of a lock object say of its terms.
#[derive(Debug, Clone, Default)]
pub(super) enum Tenure {
    /// Nothing: protocol 1.
    #[default]
    Unstated,
    /// That there are none: protocol 2.
    Exclusive,
    /// For how long they last unless they are refreshed.
    Lease(Arc<LeaseTerms>),
}

/// A marker to be made.
#[derive(Debug, Default)]
pub(in crate::mechanism) struct Form {
    /// Its permission bits, without those that let others write; `None` leaves them to the umask.
    pub(in crate::mechanism) mode: Option<u32>,
    tenure: Tenure,
    /// What it is known by. A lease has a name for each time it is taken.
    pub(super) token: Option<String>,
}

impl Form {
    /// A marker that says nothing of its terms.
    pub(in crate::mechanism) fn with_mode(mode: u32) -> Self {
        Self { mode: Some(mode), ..Self::default() }
    }

    pub(super) fn new(mode: Option<u32>, tenure: &Tenure) -> Self {
        let token = matches!(tenure, Tenure::Lease(_)).then(random_hex);
        Self { mode, tenure: tenure.clone(), token }
    }

    /// The record of this process.
    pub(super) fn to_bytes(&self) -> Arc<[u8]> {
        let (mode, duration) = match &self.tenure {
            Tenure::Unstated => return process::own_bytes(),
            Tenure::Exclusive => (OwnerMode::Exclusive, None),
            Tenure::Lease(terms) => (OwnerMode::Lease, Some(terms.duration)),
        };
        Tenancy { owner: process::own_record(), mode, token: self.token.clone(), duration }.to_bytes().into()
    }
}
