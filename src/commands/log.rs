//! `rollcall log`: what a node logs, and changing it while it runs.
//!
//! Owns what is asked and how the answer is told; the asking itself is [`crate::commands::admin_client`]'s.

use serde::{Deserialize, Serialize};

use crate::commands::admin_client::{AdminClient, Error, one_line};

/// Where the admin port has it.
pub const PATH: &str = "/_/log";

/// What the admin port says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    pub levels: String,
}

/// The levels of a node, after they were changed to `levels` where any are given.
///
/// # Errors
/// One line that says why not.
pub async fn ask(client: &AdminClient, levels: Option<&str>) -> Result<String, String> {
    let asked = async {
        let answer = match levels {
            None => client.get(PATH).await?,
            Some(levels) => client.put(PATH, levels.to_owned()).await?,
        };
        answer.json::<Told>()
    };
    let told = asked.await.map_err(|error: Error| format!("{}: {error}", client.address()))?;
    Ok(one_line(&told.levels))
}
