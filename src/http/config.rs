//! The configuration that the handlers of the public port share. It owns no default; those belong to the command line.

use std::time::Duration;

use super::concurrency_limit::ConcurrencyLimit;
use crate::auth::ApiAuth;
use crate::roll_call::RollCall;

/// The components and settings that the public port uses.
pub struct PublicHttpConfig {
    pub roll_call: RollCall,
    /// Authenticates the callers of roll calls.
    pub callers: ApiAuth,
    /// The deadline of a roll call whose caller names none.
    pub deadline: Duration,
    /// The longest deadline that a caller may ask for.
    pub max_deadline: Duration,
    /// Limits the concurrent roll calls.
    pub concurrency_limit: ConcurrencyLimit,
}
